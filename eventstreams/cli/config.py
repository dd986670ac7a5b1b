"""The settings and the catalogue of a command: from --config, or those that are shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from msgspec.structs import replace

import eventstreams
from eventstreams.cli.paths import FilePath
from eventstreams.errors import ConfigError
from eventstreams.model.stream import Catalogue, load_catalogue
from eventstreams.settings import Settings, beside, load, read

config_option = click.option(
    "--config",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Settings in YAML.  [default: the shipped config/eventstreams.yaml]",
)


def shipped_config() -> Path:
    """The settings that come with the package: inside it, or beside it in a checkout."""
    package = Path(eventstreams.__file__).parent
    inside = package / "config" / "eventstreams.yaml"
    return inside if inside.is_file() else package.parent / "config" / "eventstreams.yaml"


Check = Callable[[Settings, Catalogue | None], list[str]]


def read_config(path: Path | None, check: Check = lambda _, __: []) -> tuple[Settings, Catalogue]:
    """Settings and catalogue. Raises ConfigError with every problem of both files, and what
    `check` finds beside; it gets no catalogue where that can't be read."""
    path = path or shipped_config()
    settings, found = read(path)
    problems: list[str] = []
    catalogue: Catalogue | None = None
    try:
        catalogue = load_catalogue(path.parent / settings.catalogue)
    except ConfigError as error:
        problems += error.problems
    found += beside(found, check(settings, catalogue))
    problems = [*(f"{path}: {each}" for each in dict.fromkeys(found)), *problems]
    if problems:
        raise ConfigError(problems)
    assert catalogue is not None
    return _placed(settings, path), catalogue


def read_settings(path: Path | None) -> Settings:
    """The settings alone. Raises ConfigError."""
    path = path or shipped_config()
    return _placed(load(path), path)


def _placed(settings: Settings, path: Path) -> Settings:
    """With folders of schemas that can be found from anywhere."""
    folders = tuple(str(path.parent / folder) for folder in settings.schemas)
    return replace(settings, schemas=folders)


def catalogue_path(path: Path | None, settings: Settings) -> Path:
    """Where the catalogue of these settings is."""
    return (path or shipped_config()).parent / settings.catalogue
