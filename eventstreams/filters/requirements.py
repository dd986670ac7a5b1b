"""Derives the conditions that an event must meet for a filter to match, for an index to look up.

`covers_of` derives them from the tree of a compiled filter. A *cover* is a tuple of keys: if the
filter matches an event, at least one of the keys applies to it. So an index that files the filter
under all keys of one cover finds it for every event that it may match. A cover without keys belongs
to a filter that never matches. A filter without covers must be evaluated for every event.

Easy to get wrong: a cover is necessary, never sufficient, so what is found must still be evaluated.
Where CEL and this module could disagree, the key must apply more often. In particular CEL compares
integers and floats by value, whatever their type, but never equates them with booleans, and
`error || true` is true.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from eventstreams.filters.cel_tree import Call, Constant, Field, Literal, Name, Node

Path = tuple[str, ...]
"""A variable of the filter, such as `event`, and the names of nested fields."""
KeyValue = str | float | bytes | None

_COVERS_MAX = 4
"""How many covers are kept of a filter: the most selective ones."""
_KEYS_MAX = 256
"""How many keys a cover may have. A filter all of whose covers have more has none."""
_PATHS_MAX = 32
"""How many different paths the keys of a cover may have."""
_DEPTH_MAX = 8
"""How many names of nested fields a path may have; deeper fields are not indexed."""
PREFIX_MAX = 32
"""How many characters of a prefix a key holds, so that an index tries few lengths."""
_ROOTS = frozenset({"event", "stream", "topic", "partition"})
_COMMON_WEIGHT = 8.0
"""The weight of keys for booleans and null, which many events have."""
TRUE, FALSE = b"true", b"false"
"""Booleans in keys, because Python equates True with 1.0."""


class Match(IntEnum):
    """How a key compares the value at its path; the value of the enum is its `weight`."""

    EQUALS = 1
    STARTS_WITH = 2
    EXISTS = 16
    SAMPLE = 32
    """Whether an event's hash is in a share of all hashes; the path is empty."""


class Key(NamedTuple):
    path: Path
    match: Match
    value: KeyValue = None
    """What `key_value` makes of a constant; the beginning of the prefix; the share of a sample."""

    @property
    def weight(self) -> float:
        """A guess at how often the key applies to events, relative to other keys."""
        if self.match is Match.SAMPLE:
            assert isinstance(self.value, float)
            return float(self.match) * self.value
        if self.match is Match.EQUALS and not isinstance(self.value, (str, float)):
            return _COMMON_WEIGHT
        return float(self.match)


Cover = tuple[Key, ...]
Covers = tuple[Cover, ...]

NOTHING_KNOWN: Covers = ()
NEVER: Covers = ((),)


class _Unequal(Enum):
    """No key can equal this value."""

    UNEQUAL = "lists and maps"


UNEQUAL = _Unequal.UNEQUAL


def key_value(value: object) -> KeyValue | _Unequal:
    """Return the form of a value or a constant in keys that test for equality.

    Values that CEL equates have the same form. Lists and maps have none.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]
    if kind is bool:
        return TRUE if value else FALSE
    if kind is int or kind is float:
        return float(value)  # type: ignore[arg-type]
    return None if value is None else UNEQUAL


class _Both(NamedTuple):
    """The covers of the events for which an expression is true, and of those for which it is
    false."""

    true: Covers = NOTHING_KNOWN
    false: Covers = NOTHING_KNOWN


def covers_of(tree: Node) -> Covers:
    """Return the covers of a filter, the most selective ones first."""
    return _both(tree).true


def _both(node: Node) -> _Both:
    """Return the covers of an expression. Each node is visited once, so that nesting is cheap."""
    match node:
        case Constant():
            return _Both(
                true=NOTHING_KNOWN if node.value is True else NEVER,
                false=NOTHING_KNOWN if node.value is False else NEVER,
            )
        case Field(is_test=True):
            path = _below(_path(node.operand), node.field)
            return _Both() if path is None else _Both(true=_one(path, Match.EXISTS))
        case Field():
            return _flag(node)
        case Call():
            return _called(node)
        case _:
            return _Both()


def _called(call: Call) -> _Both:  # noqa: PLR0911 - one for each function
    arguments = call.arguments
    match call.function:
        case "!_":
            operand = _both(arguments[0])
            return _Both(true=operand.false, false=operand.true)
        case "_&&_":
            parts = [_both(operand) for operand in _operands(call)]
            return _Both(_all(part.true for part in parts), _any([part.false for part in parts]))
        case "_||_":
            parts = [_both(operand) for operand in _operands(call)]
            return _Both(_any([part.true for part in parts]), _all(part.false for part in parts))
        case "_?_:_":
            condition, first, second = map(_both, arguments)
            return _Both(
                _any([_all((condition.true, first.true)), _all((condition.false, second.true))]),
                _any([_all((condition.true, first.false)), _all((condition.false, second.false))]),
            )
        case "dyn":
            return _both(arguments[0])
        case "_[_]":
            return _flag(call)
        case "_==_":
            return _Both(true=_equal(*arguments))
        case "_!=_":
            return _Both(false=_equal(*arguments))
        case "@in":
            return _Both(true=_among(*arguments))
        case "startsWith":
            return _Both(true=_starts(*arguments))
        case _:
            return _Both()


def _operands(call: Call) -> list[Node]:
    """Return the operands of a chain of the same operator, which the parser nests in pairs."""
    found: list[Node] = []
    pending: list[Node] = [call]
    while pending:
        node = pending.pop()
        if isinstance(node, Call) and node.function == call.function:
            pending.extend(reversed(node.arguments))
        else:
            found.append(node)
    return found


def _flag(node: Node) -> _Both:
    """Return covers of an expression that is itself a part of the event."""
    path = _path(node)
    return _Both(true=_is(path, TRUE), false=_is(path, FALSE))


def _is(path: Path | None, wanted: KeyValue | _Unequal) -> Covers:
    """Return covers of the events whose value at this path has the form `wanted`."""
    if path is None or path == ("event",) or isinstance(wanted, _Unequal):
        return NOTHING_KNOWN
    return _one(path, Match.EQUALS, wanted)


def _equal(first: Node, second: Node) -> Covers:
    for node, other in ((first, second), (second, first)):
        if isinstance(other, Constant):
            return _is(_path(node), key_value(other.value))
    return NOTHING_KNOWN


def _among(node: Node, among: Node) -> Covers:
    if isinstance(among, Literal) and among.is_list:
        path = _path(node)
        if path is None:
            return _any([_equal(node, part) for part in among.parts])
        return _is_one_of(path, among.parts)
    path = _path(among)
    if path is not None and path == ("event",) and isinstance(node, Constant) and node.text:
        return _one((*path, node.text), Match.EXISTS)
    return NOTHING_KNOWN


def _is_one_of(path: Path, nodes: tuple[Node, ...]) -> Covers:
    keys: list[Key] = []
    for node in nodes:
        wanted = key_value(node.value) if isinstance(node, Constant) else UNEQUAL
        if path == ("event",) or isinstance(wanted, _Unequal):
            return NOTHING_KNOWN
        keys.append(Key(path, Match.EQUALS, wanted))
    return _best([tuple(keys)])


def _starts(node: Node, prefix: Node) -> Covers:
    path = _path(node)
    if path is None or not isinstance(prefix, Constant) or not prefix.text:
        return NOTHING_KNOWN
    return _one(path, Match.STARTS_WITH, prefix.text[:PREFIX_MAX])


def _one(path: Path, match: Match, value: KeyValue = None) -> Covers:
    return ((Key(path, match, value),),)


def _all(parts: Iterable[Covers]) -> Covers:
    """Return covers for when all parts hold: each cover of any of them."""
    return _best([cover for part in parts for cover in part])


_Choice: TypeAlias = "tuple[_Choice, Cover] | None"
"""One cover of each of several parts, the last one first."""


def _any(parts: list[Covers]) -> Covers:
    """Return covers for when any of the parts holds: one cover of each of them, together."""
    if not all(parts):
        return NOTHING_KNOWN
    choices: list[tuple[float, _Choice]] = [(0.0, None)]
    for part in parts:
        weighed = [(_weight(cover), cover) for cover in part]
        more: list[tuple[float, _Choice]] = [
            (weight + added, (choice, cover))
            for weight, choice in choices
            for added, cover in weighed
        ]
        choices = sorted(more, key=itemgetter(0))[:_COVERS_MAX]
    return _best([_together(choice) for _, choice in choices])


def _together(choice: _Choice) -> Cover:
    covers: list[Cover] = []
    while choice is not None:
        choice, cover = choice
        covers.append(cover)
    return tuple(key for cover in reversed(covers) for key in cover)


def _best(covers: list[Cover]) -> Covers:
    """Return the most selective ones of the covers that are small enough."""
    distinct = dict.fromkeys(tuple(dict.fromkeys(cover)) for cover in covers)
    small = [cover for cover in distinct if _is_small(cover)]
    return tuple(sorted(small, key=_weight)[:_COVERS_MAX])


def _is_small(cover: Cover) -> bool:
    return len(cover) <= _KEYS_MAX and len({key.path for key in cover}) <= _PATHS_MAX


def _weight(cover: Cover) -> float:
    return sum(key.weight for key in cover)


def _path(node: Node) -> Path | None:
    """Return where in an event, or in what is known of it, an expression looks."""
    match node:
        case Name() if node.name in _ROOTS:
            return (node.name,)
        case Field(is_test=False):
            return _below(_path(node.operand), node.field)
        case Call(function="_[_]", arguments=(operand, Constant(value=str(name)))):
            return _below(_path(operand), name)
        case Call(function="dyn", arguments=(operand,)):
            return _path(operand)
        case _:
            return None


def _below(path: Path | None, name: str) -> Path | None:
    if path is None or path[0] != "event" or len(path) > _DEPTH_MAX:
        return None
    return _shared((*path, name))


@lru_cache(maxsize=1024)
def _shared(path: Path) -> Path:
    """Return an equal path, so that thousands of filters hold the same object."""
    return path
