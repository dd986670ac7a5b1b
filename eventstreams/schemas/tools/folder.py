"""A folder of schemas: its files by title, and their contents.

`<title>/current.yaml` is written by hand; `<title>/X.Y.Z.yaml` and `.json` are materialized from
it. Other files are ignored. Symlinks are alternative names of schemas and not schemas themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eventstreams.errors import ConfigError, SchemaError
from eventstreams.schemas.document import read_document
from eventstreams.schemas.tools.config import RepositoryConfig, load_config
from eventstreams.schemas.uri import SchemaUri, Version, parse_version

CURRENT = "current.yaml"


class SchemaFile(NamedTuple):
    path: Path
    place: str
    """The path in the folder, used in problems."""
    title: str
    """The title according to the directory, which should equal the title in the schema."""
    version: Version | None
    """The version; None for current.yaml."""
    content_type: str


class SchemaFolder:
    """Reads each file once. Files that cannot be read raise SchemaError each time."""

    def __init__(self, base: Path, config: RepositoryConfig) -> None:
        self.base = base
        self.config = config
        self._documents: dict[Path, dict[str, Any] | SchemaError] = {}
        self._files: dict[str, list[SchemaFile]] = {}
        self.titles: dict[str, list[SchemaFile]] = {}
        """Files by title, without those that the settings ignore, which can still be referred
        to."""
        for directory, directories, names in os.walk(base):
            directories[:] = sorted(d for d in directories if not d.startswith("."))
            title = Path(directory).relative_to(base).as_posix()
            files = [f for n in sorted(names) if (f := self._file(Path(directory, n), title))]
            if files:
                self._files[title] = files
            checked = [f for f in files if not self._ignored(f)]
            if checked:
                self.titles[title] = checked

    def _file(self, path: Path, title: str) -> SchemaFile | None:
        version = parse_version(path.stem)
        if path.is_symlink() or not (
            path.name == CURRENT or (version and path.suffix in (".yaml", ".json"))
        ):
            return None
        place = path.relative_to(self.base).as_posix()
        return SchemaFile(path, place, title, version, path.suffix[1:])

    def _ignored(self, file: SchemaFile) -> bool:
        if not self.config.ignore_schemas:
            return False
        try:
            return self.config.ignores(str(self.read(file).get("$id", "")))
        except SchemaError:
            return False

    def read(self, file: SchemaFile) -> dict[str, Any]:
        found = self._documents.get(file.path)
        if found is None:
            try:
                found = read_document(file.path, file.place)
            except SchemaError as error:
                found = error
            self._documents[file.path] = found
        if isinstance(found, SchemaError):
            raise found
        return found

    def current(self, title: str) -> SchemaFile | None:
        return next((f for f in self._files.get(title, ()) if f.version is None), None)

    def versions(self, title: str) -> list[Version]:
        """Return the versions in ascending order, in any content type."""
        return sorted({f.version for f in self.titles.get(title, ()) if f.version})

    def released(self, uri: SchemaUri) -> SchemaFile | None:
        """Return the materialized file of a schema, in the first content type that exists."""
        found = {f.content_type: f for f in self._files.get(uri.title, ()) if f.version == uri[1]}
        wanted = (*self.config.content_types, "yaml", "json")
        return next((found[kind] for kind in wanted if kind in found), None)


def open_folders(folder: Path, bases: Sequence[Path] = ()) -> list[SchemaFolder]:
    """Return the folder, followed by the folders in which its references are also looked up.

    `bases` replace those in the folder's settings. Raises ConfigError.
    """
    if not folder.is_dir():
        raise ConfigError([f"{folder}: the folder does not exist"])
    config = load_config(folder)
    base = folder / config.schema_base_path
    others = list(bases)
    for named in () if bases else config.schema_base_uris:
        if "://" in named:
            raise ConfigError(
                [f"{folder}: schemaBaseUris: {named} is remote; name a local copy with --base"]
            )
        others.append(folder / named)
    problems = [
        f"{path}: the folder does not exist" for path in (base, *others) if not path.is_dir()
    ]
    if problems:
        raise ConfigError(problems)
    further = [path for path in others if path.resolve() != base.resolve()]
    return [SchemaFolder(base, config), *(SchemaFolder(p, RepositoryConfig()) for p in further)]
