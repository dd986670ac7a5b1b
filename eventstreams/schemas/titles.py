"""Checks that streams can accept the events they declare: each names an existing, usable schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from eventstreams.errors import SchemaError
from eventstreams.schemas.fields import meta_advice
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.uri import parse_version
from eventstreams.schemas.validation import Validator


class Finding(NamedTuple):
    stream: str
    """The stream's name or pattern."""
    message: str
    is_error: bool
    """Whether the stream cannot accept any event."""


def findings(titles: Mapping[str, str | None], repository: SchemaRepository) -> Iterator[Finding]:
    """Yield the problems of streams. `titles` maps each stream to its schema title, or to None if
    it takes no events.

    Reads and compiles the newest schema of each title. Raises SchemaError if the repository itself
    cannot be read.
    """
    there = sorted({uri.title for uri in repository.uris()})
    for stream, title in titles.items():
        if title is None:
            continue
        if title not in there:
            yield Finding(stream, f"no schema has the title {title!r}{_hint(title, there)}", True)
            continue
        try:
            schema = repository.get(str(repository.latest(title)))
            Validator(schema.document, str(schema.uri))
        except SchemaError as error:
            yield Finding(stream, f"its newest schema cannot be used: {error}", True)
            continue
        if schema.title != title:
            message = f"{schema.uri} has the title {schema.title!r}, so no event can be valid"
            yield Finding(stream, message, True)
            continue
        advice = meta_advice(schema.document)
        if advice is not None:
            yield Finding(stream, f"{schema.uri}: {advice}", False)


def _hint(title: str, there: Iterable[str]) -> str:
    """Return a hint at the title that was most likely meant, or an empty string."""
    stripped = title.strip("/")
    parent, _, last = stripped.rpartition("/")
    without_version = parent if parse_version(last) or last == "latest" else stripped
    if without_version in there:
        return f"; did you mean {without_version!r}? A title has neither leading slash nor version"
    near = difflib.get_close_matches(without_version, there, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
