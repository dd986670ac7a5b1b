"""Schema URIs: `/title/of/the/schema/MAJOR.MINOR.PATCH`, always relative to a repository.

Schemes, hosts, `..`, queries and anything else that could lead outside are invalid.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from eventstreams.errors import BadSchemaUri
from eventstreams.model.problem import Problem

URI_LENGTH_MAX = 512
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}")
_TITLE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Version(NamedTuple):
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


class SchemaUri(NamedTuple):
    title: str
    version: Version

    def __str__(self) -> str:
        return f"/{self.title}/{self.version}"


def parse_version(text: str) -> Version | None:
    match = _VERSION.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def is_title(text: str) -> bool:
    return _TITLE.fullmatch(text) is not None


def parse_uri(text: str) -> SchemaUri:
    """Return the parsed URI. Raises BadSchemaUri with the reason if it is invalid."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    if len(text) > URI_LENGTH_MAX:
        raise bad_uri(shown, f"is longer than {URI_LENGTH_MAX} characters")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", text):
        raise bad_uri(shown, "is absolute; use /title/version")
    if not text.startswith("/"):
        raise bad_uri(shown, "does not begin with /")
    if ".." in text.split("/"):
        raise bad_uri(shown, "leaves the repository with ..")
    title, _, last = text[1:].rpartition("/")
    version = parse_version(last)
    if version is None:
        raise bad_uri(shown, "does not end in a full version such as 1.0.0")
    if not _TITLE.fullmatch(title):
        raise bad_uri(shown, "has a title that is not made of A-Z a-z 0-9 _ - . between slashes")
    return SchemaUri(title, version)


def parse_named_uri(text: str) -> SchemaUri:
    """Return the parsed URI of a schema named by an event or request, in any form that EventGate
    accepts.

    The leading slash may be missing, and a file extension may follow. Raises BadSchemaUri.
    """
    name = text.removesuffix(".yaml").removesuffix(".json")
    is_relative = not name.startswith("/") and ":" not in name
    return parse_uri(f"/{name}" if is_relative else name)


def bad_uri(uri: str, reason: str) -> BadSchemaUri:
    return BadSchemaUri([Problem(repr(uri), "", f"the schema URI {reason}")])
