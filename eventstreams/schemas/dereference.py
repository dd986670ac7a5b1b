"""Replaces every `$ref` in a schema with the schema that it names.

`/title/1.0.0#/pointer` names a schema of the repository, `#/pointer` a place in the same file. As
in jsonschema-tools, keys beside a `$ref` override those of the referenced schema, so a property can
have its own description. References in `examples` are resolved too (`{$ref: '#/$id'}`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from eventstreams.errors import BadSchemaUri, SchemaError
from eventstreams.model.problem import Problem, below, tokens_of
from eventstreams.schemas.document import DEPTH_MAX, NODES_MAX
from eventstreams.schemas.uri import SchemaUri, parse_uri

Lookup = Callable[[SchemaUri], dict[str, Any]]
"""Returns a schema without references. Raises SchemaError."""


class _Unresolvable(Exception):
    """An unresolvable reference; the message gives the reason."""


class _TooLarge(Exception):
    pass


def dereference(document: dict[str, Any], place: str, lookup: Lookup) -> dict[str, Any]:
    """Return a copy without references. Raises SchemaError listing every unresolvable reference."""
    walk = _Walk(document, place, lookup)
    try:
        result = walk.resolve(document, "", (), 0)
    except _TooLarge as error:
        raise SchemaError([Problem(place, "", f"{error}, references written out")]) from error
    if walk.problems:
        raise SchemaError(dict.fromkeys(walk.problems))
    if not isinstance(result, dict):
        raise SchemaError([Problem(place, "/$ref", "does not name an object")])
    return cast("dict[str, Any]", result)


class _Walk:
    def __init__(self, document: dict[str, Any], place: str, lookup: Lookup) -> None:
        self._document = document
        self._place = place
        self._lookup = lookup
        self._nodes = 0
        self.problems: list[Problem] = []

    def resolve(self, value: Any, pointer: str, via: tuple[str, ...], depth: int) -> Any:
        """Return `value` without references. `via` are the places in this document that references
        led through, to detect cycles.
        """
        self._count(depth)
        if isinstance(value, list):
            items = cast("list[Any]", value)
            return [self.resolve(v, below(pointer, n), via, depth + 1) for n, v in enumerate(items)]
        if not isinstance(value, dict):
            return value
        mapping = cast("dict[str, Any]", value)
        ref = mapping.get("$ref")
        if not isinstance(ref, str):  # a property may be named $ref
            return self._mapping(mapping, pointer, via, depth)
        beside = {key: item for key, item in mapping.items() if key != "$ref"}
        found: Any = None
        try:
            found = self._follow(ref, pointer, via, depth)
            if beside and not isinstance(found, dict):
                raise _Unresolvable("is not an object, so it cannot have sibling keywords")
        except _Unresolvable as error:
            self._problem(pointer, f"{ref} {error}")
            return cast("dict[str, Any]", {})
        if not beside:
            return cast("object", found)
        return {**cast("dict[str, Any]", found), **self._mapping(beside, pointer, via, depth)}

    def _mapping(
        self, mapping: dict[str, Any], pointer: str, via: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        return {k: self.resolve(v, below(pointer, k), via, depth + 1) for k, v in mapping.items()}

    def _follow(self, ref: str, pointer: str, via: tuple[str, ...], depth: int) -> Any:
        path, _, fragment = ref.partition("#")
        fragment = unquote(fragment)
        try:
            tokens = tokens_of(fragment)
            uri = None if path in ("", ".", "./") else parse_uri(path)
        except ValueError as error:
            raise _Unresolvable(f"does not resolve: {error}") from error
        except BadSchemaUri as error:
            raise _Unresolvable(f"is rejected: {error.problems[0].message}") from error
        if uri is not None:
            try:
                document = self._lookup(uri)
            except SchemaError as error:
                raise _Unresolvable(
                    "; ".join(["cannot be loaded", *map(str, error.problems)])
                ) from error
            return self._copy(_find(document, tokens), depth)
        if fragment in via or pointer.startswith(fragment + "/"):
            raise _Unresolvable("refers to itself")
        return self.resolve(_find(self._document, tokens), fragment, (*via, fragment), depth)

    def _copy(self, value: Any, depth: int) -> Any:
        self._count(depth)
        if isinstance(value, dict):
            return {k: self._copy(v, depth + 1) for k, v in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self._copy(item, depth + 1) for item in cast("list[Any]", value)]
        return value

    def _count(self, depth: int) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise _TooLarge(f"more than {NODES_MAX} values")
        if depth > DEPTH_MAX:
            raise _TooLarge(f"nested deeper than {DEPTH_MAX}")

    def _problem(self, pointer: str, message: str) -> None:
        self.problems.append(Problem(self._place, below(pointer, "$ref"), message))


def _find(document: Any, tokens: list[str]) -> Any:
    for token in tokens:
        if isinstance(document, dict) and token in document:
            document = cast("dict[str, Any]", document)[token]
        elif isinstance(document, list) and token.isdecimal():
            items = cast("list[Any]", document)
            if int(token) >= len(items):
                raise _Unresolvable(f"does not resolve: there is no item {token}")
            document = items[int(token)]
        else:
            raise _Unresolvable(f"does not resolve: there is no {token!r}")
    return document
