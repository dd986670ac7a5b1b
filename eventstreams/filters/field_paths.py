"""Finds the fields of the event that a filter names, and the literals it compares them with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from eventstreams.filters.cel_tree import Call, Constant, Field, Literal, Loop, Name, Node

PATHS_MAX = 20
"""How many paths are kept of a filter."""

COMPARISONS_MAX = 20
"""How many comparisons are kept of a filter."""
_OPERATORS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})

Path = tuple[str, ...]


class Comparison(NamedTuple):
    """A comparison of a field with a literal, by an operator such as `==` or by `in`."""

    path: Path
    value: str | bool | int | float


class Fields(NamedTuple):
    """The use of the event's fields by a filter."""

    paths: tuple[Path, ...]
    comparisons: tuple[Comparison, ...]
    conditions: tuple[Path, ...]
    """The fields that have to be true or false."""


def fields_of(tree: Node) -> Fields:
    return Fields(field_paths(tree), comparisons(tree), conditions(tree))


def field_paths(tree: Node) -> tuple[Path, ...]:
    """Return the paths below `event` that the tree names, each once, in the order of the text.

    `event.a[0].b` gives `("a",)`: what an index selects is not followed.
    """
    found: dict[Path, None] = {}
    for path in _walk(tree, frozenset()):
        if path and len(found) < PATHS_MAX:
            found[path] = None
    return tuple(found)


def comparisons(tree: Node) -> tuple[Comparison, ...]:
    """Return the comparisons of fields with literals in the order of the text, each once.

    Comparisons with null and with bytes are left out.
    """
    found: dict[Comparison, None] = {}
    for comparison in _compared(tree, frozenset()):
        if len(found) < COMPARISONS_MAX:
            found[comparison] = None
    return tuple(found)


def conditions(tree: Node) -> tuple[Path, ...]:
    """Return the paths of the fields that the filter takes for conditions, each once.

    Those inside macros are left out.
    """
    return tuple(dict.fromkeys(islice(_conditions(tree), PATHS_MAX)))


def _conditions(node: Node) -> Iterator[Path]:
    match node:
        case Call(function="_&&_" | "_||_" | "!_" | "_?_:_", arguments=parts):
            for part in parts:
                yield from _conditions(part)
        case Field(is_test=True):
            pass
        case _:
            if path := _path(node, frozenset()):
                yield path


def _compared(node: Node, hidden: frozenset[str]) -> Iterator[Comparison]:
    match node:
        case Call(function="@in", arguments=(field, Literal(is_list=True, parts=literals))):
            yield from _comparisons(_path(field, hidden), literals)
        case Call(function=function, arguments=(left, right)) if function in _OPERATORS:
            yield from _comparisons(_path(left, hidden), (right,))
            yield from _comparisons(_path(right, hidden), (left,))
        case _:
            pass
    for part, inner in _parts(node, hidden):
        yield from _compared(part, inner)


def _comparisons(path: Path | None, literals: tuple[Node, ...]) -> Iterator[Comparison]:
    for literal in literals if path else ():
        if isinstance(literal, Constant) and isinstance(literal.value, str | int | float):
            assert path is not None
            yield Comparison(path, literal.value)


def _walk(node: Node, hidden: frozenset[str]) -> Iterator[Path]:
    """Yield the longest paths. `hidden` are variables of macros."""
    path = _path(node, hidden)
    if path is not None:
        yield path
        return
    for part, inner in _parts(node, hidden):
        yield from _walk(part, inner)


def _parts(node: Node, hidden: frozenset[str]) -> Iterator[tuple[Node, frozenset[str]]]:
    """Yield the nodes directly below, each with the variables of macros that are visible there."""
    match node:
        case Field():
            yield node.operand, hidden
        case Call():
            for argument in node.arguments:
                yield argument, hidden
        case Literal():
            for part in node.parts:
                yield part, hidden
        case Loop():
            yield node.over, hidden
            yield node.step, hidden | {node.variable, node.accumulator}
        case Constant() | Name():
            pass


def _path(node: Node, hidden: frozenset[str]) -> Path | None:
    """Return the path if the node is a field of the event, or the event itself."""
    match node:
        case Name():
            return () if node.name == "event" and node.name not in hidden else None
        case Field():
            above = _path(node.operand, hidden)
            return None if above is None else (*above, node.field)
        case Call(function="_[_]", arguments=(operand, Constant(text=str(name)))):
            above = _path(operand, hidden)
            return None if above is None else (*above, name)
        case _:
            return None
