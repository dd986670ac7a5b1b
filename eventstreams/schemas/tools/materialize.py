"""Materializes current.yaml into X.Y.Z.yaml, X.Y.Z.json and the symlinks to them.

`Materializer` computes the content of a version, `plan` compares it with the files on disk, and
`write` carries out the plan. Nothing is written while there is any problem.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem
from eventstreams.schemas.dereference import dereference
from eventstreams.schemas.document import read_document
from eventstreams.schemas.subschemas import subschemas
from eventstreams.schemas.text import to_text
from eventstreams.schemas.tools.folder import SchemaFile, SchemaFolder
from eventstreams.schemas.tools.merge import equal, merge_all_of
from eventstreams.schemas.uri import SchemaUri, Version, parse_uri
from eventstreams.schemas.validation import schema_problems


class Materialized(NamedTuple):
    title: str
    """The title of the directory that it belongs in."""
    version: Version
    document: dict[str, Any]


class Materializer:
    """Materializes each schema once.

    A reference resolves to the current file if that has the requested version, and otherwise to the
    materialized file, so files can be processed in any order.
    """

    def __init__(self, folders: Sequence[SchemaFolder]) -> None:
        self._folder = folders[0]
        self._folders = folders
        self._done: dict[str, Materialized | SchemaError] = {}
        self._under_way: list[str] = []

    def current(self, title: str) -> Materialized:
        """Return the materialized content of the title's current.yaml. Raises SchemaError."""
        if title in self._under_way:
            chain = [*self._under_way[self._under_way.index(title) :], title]
            message = f"circular references: {' -> '.join(chain)}"
            raise SchemaError([Problem(f"{title}/current.yaml", "", message)])
        if title not in self._done:
            self._under_way.append(title)
            try:
                self._done[title] = self._materialize(title)
            except SchemaError as error:
                self._done[title] = error
            finally:
                self._under_way.pop()
        done = self._done[title]
        if isinstance(done, SchemaError):
            raise done
        return done

    def lookup(self, uri: SchemaUri) -> dict[str, Any]:
        """Return a referenced schema, without references. Raises SchemaError."""
        current = self._folder.current(uri.title)
        if current and self._folder.read(current).get("$id") == str(uri):
            return self.current(uri.title).document
        for folder in self._folders:
            file = folder.released(uri)
            if file:
                return dereference(folder.read(file), file.place, self.lookup)
        raise SchemaError([Problem(str(uri), "", "the schema does not exist")])

    def _materialize(self, title: str) -> Materialized:
        file = self._folder.current(title)
        if file is None:
            raise SchemaError([Problem(title, "", "there is no current.yaml")])
        schema = self._folder.read(file)
        version = version_of(schema, file)
        document = dereference(schema, file.place, self.lookup)
        problems = list(schema_problems(document, file.place))
        if problems:
            raise SchemaError(problems)
        document = merge_all_of(document, file.place)
        bounds = self._folder.config.enforced_numeric_bounds
        if bounds:
            _bound_numbers(document, bounds)
        if self._folder.config.should_generate_example and "examples" not in document:
            document |= self._generated(SchemaUri(title, version), document)
        return Materialized(title, version, document)

    def _generated(self, uri: SchemaUri, document: dict[str, Any]) -> dict[str, Any]:
        """Return the `examples` that another tool generated for this schema."""
        released = self._folder.released(uri)
        there = self._folder.read(released) if released else {}
        kept = {key: value for key, value in there.items() if key == "examples"}
        return kept if equal(there, {**document, **kept}) else {}


def version_of(schema: dict[str, Any], file: SchemaFile) -> Version:
    """Return the version in a file's `$id`.

    The `$id` must match the file's directory or the end of its path. Raises SchemaError.
    """
    given = schema.get("$id")
    if not isinstance(given, str):
        wrong = "is missing" if given is None else "is not a string"
        raise SchemaError(
            [Problem(file.place, "/$id", f"{wrong}; it should be /{file.title}/X.Y.Z")]
        )
    try:
        uri = parse_uri(given)
    except SchemaError as error:
        message = error.problems[0].message
        raise SchemaError([Problem(file.place, "/$id", message)]) from error
    if not f"/{file.title}".endswith(f"/{uri.title}"):
        message = f"is {given}, but the directory says /{file.title}/"
        raise SchemaError([Problem(file.place, "/$id", message)])
    return uri.version


def _bound_numbers(document: dict[str, Any], bounds: tuple[float, float]) -> None:
    for _, schema in subschemas(document):
        if schema.get("type") in ("number", "integer"):
            schema.setdefault("minimum", bounds[0])
            schema.setdefault("maximum", bounds[1])


class Write(NamedTuple):
    """A file to write, or a symlink to create."""

    path: Path
    place: str
    text: str = ""
    target: str = ""

    def __str__(self) -> str:
        return f"{self.place} -> {self.target}" if self.target else self.place


class Plan(NamedTuple):
    schemas: int
    writes: list[Write]
    problems: list[Problem]


def plan(folder: SchemaFolder, materializer: Materializer, *, force: bool = False) -> Plan:
    """Return the files to write so that every current.yaml is materialized.

    An existing file with an equal schema is kept, whatever its layout. An existing file with
    another schema is a problem, because a released version must not change; `force` replaces it.
    """
    writes: list[Write] = []
    problems: list[Problem] = []
    for title in folder.titles:
        if folder.current(title) is None:
            problems.append(Problem(title, "", "there is no current.yaml"))
            continue
        try:
            made = materializer.current(title)
            writes += _files(folder, made, force=force)
            writes += _links(folder, made)
        except SchemaError as error:
            problems += error.problems
    return Plan(len(folder.titles), writes, list(dict.fromkeys(problems)))


def _files(folder: SchemaFolder, made: Materialized, *, force: bool) -> Iterator[Write]:
    for kind in folder.config.content_types:
        name = f"{made.version}.{kind}"
        path, place = folder.base / made.title / name, f"{made.title}/{name}"
        text = to_text(made.document, kind)
        if path.is_symlink() or path.exists():
            if not path.is_file() or path.is_symlink():
                raise SchemaError([Problem(place, "", "is not a plain file")])
            if _holds(path, place, made.document):
                continue
            if not force:
                message = (
                    "is released with different content; raise the version in current.yaml, "
                    "or replace it with --force"
                )
                raise SchemaError([Problem(place, "", message)])
        yield Write(path, place, text=text)


def _holds(path: Path, place: str, document: dict[str, Any]) -> bool:
    try:
        return equal(read_document(path, place), document)
    except SchemaError:
        return False


def links_of(folder: SchemaFolder, version: Version) -> Iterator[tuple[str, str]]:
    """Yield the name and target of every symlink for the newest version of a title."""
    config = folder.config
    first = config.content_types[0]
    if config.should_symlink_latest:
        yield from ((f"latest.{kind}", f"{version}.{kind}") for kind in config.content_types)
        if config.should_symlink_extensionless:
            yield "latest", f"{version}.{first}"


def _links(folder: SchemaFolder, made: Materialized) -> Iterator[Write]:
    title, version = made.title, made.version
    links = list(links_of(folder, max([version, *folder.versions(title)])))
    if folder.config.should_symlink_extensionless:
        links.append((str(version), f"{version}.{folder.config.content_types[0]}"))
    for name, target in links:
        path, place = folder.base / title / name, f"{title}/{name}"
        if path.is_symlink():
            if os.readlink(path) == target:
                continue
        elif path.exists():
            raise SchemaError([Problem(place, "", "is in the way of a symlink")])
        yield Write(path, place, target=target)


def write(planned: Write) -> None:
    """Write a file or symlink atomically. Raises SchemaError if that fails."""
    beside = planned.path.with_name(f".{planned.path.name}.{os.getpid()}.tmp")
    try:
        if planned.target:
            beside.symlink_to(planned.target)
        else:
            beside.write_text(planned.text, "utf-8")
        beside.replace(planned.path)
    except OSError as error:
        message = f"cannot be written: {error.strerror or error}"
        raise SchemaError([Problem(planned.place, "", message)]) from error
    finally:
        beside.unlink(missing_ok=True)
