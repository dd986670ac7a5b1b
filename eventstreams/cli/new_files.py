"""Writes the files of a new configuration: completely or not at all, and over others if allowed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from eventstreams.errors import ConfigError, EventStreamsError
from eventstreams.schemas.text import to_text
from eventstreams.schemas.tools.config import RepositoryConfig
from eventstreams.schemas.tools.folder import CURRENT, SchemaFolder
from eventstreams.schemas.tools.materialize import Materializer, plan, write


def check_absent(paths: Iterable[Path], *, force: bool) -> None:
    """Check that none of these files exists, unless `force`. Raises ConfigError."""
    existing = [path for path in paths if path.exists()]
    if existing and not force:
        raise ConfigError([f"{path}: exists; --force replaces it" for path in existing])


def write_files(files: Mapping[Path, str], *, force: bool) -> None:
    """Write all files. Raises ConfigError if one exists, unless `force`, and EventStreamsError."""
    check_absent(files, force=force)
    for path, text in files.items():
        replace_file(path, text)


def replace_file(path: Path, text: str) -> None:
    """Write a temporary file and move it to `path`. Raises EventStreamsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EventStreamsError(f"{path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def schema_file(folder: Path, title: str) -> Path:
    return folder / title / CURRENT


def write_schema(folder: Path, schema: dict[str, object], *, force: bool) -> None:
    """Write current.yaml of a schema and the version that it describes.

    Raises ConfigError, SchemaError, EventStreamsError.
    """
    title = str(schema["title"])
    text = to_text(schema, "yaml", keeps_order=True)
    write_files({schema_file(folder, title): text}, force=force)
    base = SchemaFolder(folder, RepositoryConfig())
    planned = plan(base, Materializer([base]), force=force)
    problems = [str(each) for each in planned.problems if str(each).startswith(f"{title}/")]
    if problems:
        raise ConfigError(problems)
    inside = (folder / title).resolve()
    for one in planned.writes:
        if one.path.parent.resolve() == inside:
            write(one)
