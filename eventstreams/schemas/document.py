"""Parses schema files: YAML (with its JSON schema, so `on` and `no` are text) or JSON.

Values that JSON cannot represent are refused with their place: duplicate or non-text keys, NaN,
aliases that form a cycle, unpaired surrogates. Timestamps remain text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml

from eventstreams.config.yaml_file import BoundedConstructor
from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem, below

FILE_BYTES_MAX = 4 * 2**20
DEPTH_MAX = 100
_WHOLE_MAX = 1e21
NODES_MAX = 200_000
"""Maximum values in a document after its aliases and references are expanded."""


class _Loader(BoundedConstructor, yaml.CSafeLoader):
    """Resolves scalars by the core schema of YAML 1.2, not by YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below, then left

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problem = "a key must be text; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _number(_: Any, node: Any) -> int | float:
    text = node.value.replace(".inf", "inf").replace(".nan", "nan").lower()
    if text.lstrip("+-").startswith("0x"):
        return int(text, 16)
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else float(text)


_NUMBER = re.compile(
    r"""(?: [-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?
        | 0x[0-9a-fA-F]+ | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN) )\Z""",
    re.VERBOSE,
)
for _tag, _pattern, _first in (
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), "tTfF"),
    ("float", _NUMBER, "-+.0123456789"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"<<\Z"), "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:int", _number)


def read_document(path: Path, place: str) -> dict[str, Any]:
    """Return the object in a file. `place` names the file in problems. Raises SchemaError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SchemaError([Problem(place, "", error.strerror or str(error))]) from error
    return parse_document(data, place, is_json=path.suffix == ".json")


def parse_document(data: bytes, place: str, *, is_json: bool = False) -> dict[str, Any]:
    """Return the object in `data`. Raises SchemaError, with line and column for a syntax error."""
    if len(data) > FILE_BYTES_MAX:
        raise SchemaError([Problem(place, "", f"larger than {FILE_BYTES_MAX} bytes")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SchemaError([Problem(place, "", f"not UTF-8: {error.reason}")]) from error
    value = _json(text, place) if is_json else _yaml(text, place)
    if not isinstance(value, dict):
        raise SchemaError([Problem(place, "", "does not contain an object")])
    walk = _Walk(place)
    return cast("dict[str, Any]", walk.copy(cast("Any", value), ""))


def _yaml(text: str, place: str) -> Any:
    try:
        depth = 0
        for event in yaml.parse(text, _Loader):  # deep nesting overflows the stack of later steps
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                raise SchemaError([Problem(place, "", f"nested deeper than {DEPTH_MAX}")])
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}:{mark.column + 1}" if mark else place
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SchemaError([Problem(where, "", f"not YAML: {reason}")]) from error
    except ValueError as error:
        raise SchemaError([Problem(place, "", f"not YAML: {error}")]) from error


def _json(text: str, place: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} appears twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}:{error.colno}"
        raise SchemaError([Problem(where, "", f"not JSON: {error.msg}")]) from error
    except (ValueError, RecursionError) as error:
        raise SchemaError([Problem(place, "", f"not JSON: {error}")]) from error


class _Walk:
    """Copies a document so that aliases share nothing, and refuses values that JSON cannot hold."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._nodes = 0

    def copy(self, value: Any, pointer: str, depth: int = 0) -> Any:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            self._refuse("", f"more than {NODES_MAX} values after expanding aliases")
        if depth > DEPTH_MAX:
            self._refuse("", f"nested deeper than {DEPTH_MAX}, or an alias leads to itself")
        if isinstance(value, dict):
            copied: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                self._text(key, pointer)
                copied[key] = self.copy(item, below(pointer, key), depth + 1)
            return copied
        if isinstance(value, list):
            items = cast("list[Any]", value)
            return [self.copy(v, below(pointer, n), depth + 1) for n, v in enumerate(items)]
        if isinstance(value, str):
            self._text(value, pointer)
        elif isinstance(value, float) and not math.isfinite(value):
            self._refuse(pointer, f"{value} is not a JSON number")
        elif isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_MAX:
            return int(value)  # JSON has only one number type, and defaults are copied into events
        elif not isinstance(value, bool | int | float | None):
            self._refuse(pointer, f"{type(value).__name__} is not a JSON type")
        return value

    def _text(self, value: str, pointer: str) -> None:
        if any("\ud800" <= c <= "\udfff" for c in value):
            self._refuse(pointer, "contains half of a surrogate pair")

    def _refuse(self, pointer: str, message: str) -> NoReturn:
        raise SchemaError([Problem(self._place, pointer, message)])
