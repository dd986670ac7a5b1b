"""Finds schemas by URI in one or more folders of materialized files.

Only files named `/title/MAJOR.MINOR.PATCH` below a base folder are opened; this holds for symlinks
too. The functions read files, so call them on a thread rather than in the event loop. Found schemas
are cached. Missing ones are looked up again, because schemas may be added while the service runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eventstreams.errors import SchemaError, SchemaNotFound
from eventstreams.model.problem import Problem
from eventstreams.schemas.dereference import dereference
from eventstreams.schemas.document import read_document
from eventstreams.schemas.uri import SchemaUri, Version, is_title, parse_uri, parse_version

_SUFFIXES = (".yaml", ".json", "")


@dataclass(frozen=True)
class Schema:
    uri: SchemaUri
    title: str
    """The title in the schema, which is compared with a stream's `schema_title`."""
    document: dict[str, Any]
    """The schema without references. It is shared, so do not modify it."""

    @property
    def version(self) -> Version:
        return self.uri.version


class SchemaRepository:
    def __init__(self, bases: Sequence[Path]) -> None:
        """Set the base folders. The first folder that has a schema takes precedence."""
        self._given = tuple(bases)
        self._schemas: dict[SchemaUri, Schema] = {}

    @cached_property
    def _bases(self) -> list[Path]:
        return [base.resolve() for base in self._given]

    def get(self, uri: str) -> Schema:
        """Return a schema. Raises BadSchemaUri, SchemaNotFound, or SchemaError if the schema is
        invalid.
        """
        return self._get(parse_uri(uri), ())

    def latest(self, title: str) -> SchemaUri:
        """Return the highest released version. Raises SchemaNotFound."""
        versions = [uri.version for uri in self._released(title)]
        if not versions:
            raise SchemaNotFound([Problem(f"/{title}", "", "the schema does not exist")])
        return SchemaUri(title, max(versions))

    def uris(self) -> list[SchemaUri]:
        """Return the URIs of all released versions in all base folders, sorted."""
        found: set[SchemaUri] = set()
        for base in self._bases:
            for directory, directories, _ in os.walk(base):
                directories[:] = [name for name in directories if not name.startswith(".")]
                found.update(self._released(Path(directory).relative_to(base).as_posix()))
        return sorted(found)

    def _released(self, title: str) -> set[SchemaUri]:
        if not is_title(title):
            return set()
        names = {
            path.name
            for base in self._bases
            for path in ((base / title).iterdir() if (base / title).is_dir() else ())
            if path.is_file()
        }
        stems = {name.removesuffix(".yaml").removesuffix(".json") for name in names}
        return {SchemaUri(title, v) for stem in stems if (v := parse_version(stem)) is not None}

    def _get(self, uri: SchemaUri, on_the_way: tuple[SchemaUri, ...]) -> Schema:
        if uri not in self._schemas:
            self._schemas[uri] = self._load(uri, on_the_way)
        return self._schemas[uri]

    def _load(self, uri: SchemaUri, on_the_way: tuple[SchemaUri, ...]) -> Schema:
        if uri in on_the_way:
            chain = " -> ".join(map(str, (*on_the_way, uri)))
            raise SchemaError([Problem(str(uri), "", f"circular references: {chain}")])
        path = self._find(uri)
        if path is None:
            raise SchemaNotFound([Problem(str(uri), "", "the schema does not exist")])
        document = read_document(path, str(uri))
        document = dereference(
            document, str(uri), lambda other: self._get(other, (*on_the_way, uri)).document
        )
        title = document.get("title")
        return Schema(uri, title if isinstance(title, str) else uri.title, document)

    def _find(self, uri: SchemaUri) -> Path | None:
        for base in self._bases:
            for suffix in _SUFFIXES:
                path = (base / uri.title / f"{uri.version}{suffix}").resolve()
                if path.is_relative_to(base) and path.is_file():
                    return path
        return None
