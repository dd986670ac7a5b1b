"""Loads the settings and the catalogue of a command: from --config, or those of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

import eventstreams
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import Settings, with_paths_from
from eventstreams.config.validation import independent_of, load, read
from eventstreams.config.yaml_file import located
from eventstreams.errors import ConfigError
from eventstreams.model.catalogue import Catalogue


def shipped_config() -> Path:
    """Return the settings that come with the package: inside it, or beside it in a checkout."""
    package = Path(eventstreams.__file__).parent
    inside = package / "config" / "eventstreams.yaml"
    return inside if inside.is_file() else package.parent / "config" / "eventstreams.yaml"


Check = Callable[[Settings, Catalogue | None], list[str]]


def read_config(path: Path | None, check: Check = lambda _, __: []) -> tuple[Settings, Catalogue]:
    """Return settings and catalogue; paths in the settings are those that `_placed` describes.

    Raises ConfigError with every problem of both files and those that `check` finds. `check`
    receives None if the catalogue cannot be read.
    """
    settings, found = read(path or shipped_config())
    settings = _placed(settings, path)
    path = path or shipped_config()
    problems: list[str] = []
    unread: list[str] = []
    catalogue: Catalogue | None = None
    try:
        catalogue = load_catalogue(Path(settings.catalogue))
    except ConfigError as error:
        if Path(settings.catalogue).exists():
            problems += error.problems
        else:  # by the settings, which may not even mention a catalogue
            unread = [f"catalogue: {problem}" for problem in error.problems]
    found += independent_of(found, check(settings, catalogue)) + unread
    problems = [*located(path, dict.fromkeys(found)), *problems]
    if problems:
        raise ConfigError(problems)
    assert catalogue is not None
    return settings, catalogue


def read_settings(path: Path | None) -> Settings:
    """Return only the settings. Raises ConfigError."""
    return _placed(load(path or shipped_config()), path)


def _placed(settings: Settings, path: Path | None) -> Settings:
    """Return settings whose paths are relative to the settings file. The shipped settings
    (`path` is None) keep the log in the working directory, since they may be part of the package.
    """
    placed = with_paths_from(settings, (path or shipped_config()).parent)
    if path is None:
        placed = replace(placed, log=replace(placed.log, data_dir=settings.log.data_dir))
    return placed
