"""Checks that all files of a schema exist and are consistent."""

from __future__ import annotations

import os
from collections.abc import Iterator

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem
from eventstreams.schemas.tools.folder import CURRENT, SchemaFile, SchemaFolder
from eventstreams.schemas.tools.materialize import Materializer, links_of, version_of
from eventstreams.schemas.tools.merge import equal
from eventstreams.schemas.uri import SchemaUri, Version


def structure_problems(
    folder: SchemaFolder, title: str, materializer: Materializer
) -> Iterator[Problem]:
    """Yield the problems of one schema directory. Each unreadable file is reported once."""
    for file in folder.titles[title]:
        yield from _file_problems(folder, file)
    for version in folder.versions(title):
        yield from _version_problems(folder, SchemaUri(title, version))
    if (folder.base / title / "current").is_symlink():
        yield Problem(f"{title}/current", "", "should not exist: current is not a version")
    current = folder.current(title)
    if current is None:
        yield Problem(f"{title}/{CURRENT}", "", "is missing; versions are materialized from it")
    else:
        yield from _current_problems(folder, current, materializer)
    versions = folder.versions(title)
    for name, target in links_of(folder, versions[-1]) if versions else ():
        yield from _link_problems(folder, title, name, target)


def _file_problems(folder: SchemaFolder, file: SchemaFile) -> Iterator[Problem]:
    try:
        schema = folder.read(file)
        version = version_of(schema, file)
    except SchemaError as error:
        yield from error.problems
        return
    if schema.get("title") != file.title:
        named = repr(schema["title"]) if "title" in schema else "missing"
        yield Problem(file.place, "/title", f"is {named}; the directory says {file.title!r}")
    if file.version not in (None, version):
        yield Problem(file.place, "/$id", f"is {schema['$id']}; the file's name says otherwise")


def _version_problems(folder: SchemaFolder, uri: SchemaUri) -> Iterator[Problem]:
    files = {f.content_type: f for f in folder.titles[uri.title] if f.version == uri.version}
    kinds = folder.config.content_types
    for kind in kinds:
        if kind not in files:
            yield Problem(f"{uri.title}/{uri.version}.{kind}", "", "is missing")
    try:
        documents = [(f, folder.read(f)) for f in files.values()]
    except SchemaError:
        return  # reported for the file itself
    for file, document in documents[1:]:
        if not equal(document, documents[0][1]):
            yield Problem(file.place, "", f"is not the same schema as {documents[0][0].place}")
    if folder.config.should_symlink_extensionless:
        target = f"{uri.version}.{kinds[0]}"
        yield from _link_problems(folder, uri.title, str(uri.version), target)


def _link_problems(folder: SchemaFolder, title: str, name: str, target: str) -> Iterator[Problem]:
    path, place = folder.base / title / name, f"{title}/{name}"
    if not path.is_symlink():
        wrong = "is not a symlink" if path.exists() else "is missing"
        yield Problem(place, "", f"{wrong}; it should be a symlink to {target}")
    elif os.readlink(path) != target:
        yield Problem(place, "", f"leads to {os.readlink(path)}, not to {target}")


def _current_problems(
    folder: SchemaFolder, file: SchemaFile, materializer: Materializer
) -> Iterator[Problem]:
    """Check that the newest version matches current.yaml."""
    try:
        made = materializer.current(file.title)
    except SchemaError as error:
        yield from error.problems
        return
    versions = folder.versions(file.title)
    if not versions or versions[-1] < made.version:
        yield Problem(file.place, "", f"version {made.version} is not materialized")
    elif versions[-1] > made.version:
        yield Problem(
            file.place, "/$id", f"is version {made.version}, but {versions[-1]} already exists"
        )
    else:
        yield from _content_problems(folder, made.title, versions[-1], made.document)


def _content_problems(
    folder: SchemaFolder, title: str, version: Version, document: dict[str, object]
) -> Iterator[Problem]:
    released = folder.released(SchemaUri(title, version))
    assert released is not None
    try:
        if not equal(folder.read(released), document):
            message = (
                "is not what current.yaml materializes to; materialize it, or raise its version"
            )
            yield Problem(released.place, "", message)
    except SchemaError:
        return
