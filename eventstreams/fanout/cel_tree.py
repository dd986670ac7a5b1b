"""The tree of a compiled CEL expression, read from the form in which the runtime serializes it.

That form is the protocol buffer `cel.expr.CheckedExpr` of the CEL specification, wrapped in a
`google.protobuf.Any`. Only the fields that a check of an expression needs are read. The runtime
bounds how deeply expressions nest (32 levels), so reading them recursively is safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}


class Constant(NamedTuple):
    """A literal; `text` is None for all but strings."""

    offset: int
    text: str | None


class Name(NamedTuple):
    """A variable: of the environment, or of a macro like `all`."""

    offset: int
    name: str


class Field(NamedTuple):
    """`operand.field`, or `has(operand.field)`."""

    offset: int
    operand: Node
    field: str


class Call(NamedTuple):
    """A function or an operator, like `_==_`. The target of a member call is its first argument."""

    offset: int
    function: str
    arguments: tuple[Node, ...]


class Literal(NamedTuple):
    """A list, a map or a message with these parts, keys of maps included."""

    offset: int
    parts: tuple[Node, ...]
    is_message: bool


class Loop(NamedTuple):
    """A macro that goes through a list or the keys of a map."""

    offset: int
    variable: str
    accumulator: str
    over: Node
    collects: bool
    """Whether it builds a list, as `map` and `filter` do."""
    step: Node


Node = Constant | Name | Field | Call | Literal | Loop


def read_tree(serialized: bytes) -> Node:
    """The tree of what `Expression.serialize` returned. Offsets count code points of the text."""
    checked = _message(_first(_message(serialized), 2))
    positions: dict[int, int] = {}
    for entry in _message(_first(checked, 5)).get(4, ()):
        pair = _message(entry)
        positions[_number(pair, 1)] = _number(pair, 2)
    return _node(_first(checked, 4), positions)


def calls_of(tree: Node, function: str) -> Iterator[Call]:
    """All calls of this function, in the order of the text."""
    match tree:
        case Field():
            yield from calls_of(tree.operand, function)
        case Literal():
            for part in tree.parts:
                yield from calls_of(part, function)
        case Loop():
            yield from calls_of(tree.over, function)
            yield from calls_of(tree.step, function)
        case Call():
            for argument in tree.arguments:
                yield from calls_of(argument, function)
            if tree.function == function:
                yield tree
        case Constant() | Name():
            pass


_Message = Mapping[int, list[bytes | int]]


def _node(data: bytes, positions: Mapping[int, int]) -> Node:  # noqa: PLR0911 - one for each kind
    message = _message(data)
    offset = positions.get(_number(message, 2), 0)
    if 4 in message:
        return Name(offset, _text(_message(_first(message, 4)), 1))
    if 5 in message:
        field = _message(_first(message, 5))
        return Field(offset, _node(_first(field, 1), positions), _text(field, 2))
    if 6 in message:
        call = _message(_first(message, 6))
        operands = [*call.get(1, ()), *call.get(3, ())]
        return Call(offset, _text(call, 2), _nodes(operands, positions))
    if 7 in message:
        elements = _message(_first(message, 7)).get(1, [])
        return Literal(offset, _nodes(elements, positions), is_message=False)
    if 8 in message:
        struct = _message(_first(message, 8))
        parts = [
            part
            for entry in map(_message, struct.get(2, ()))
            for part in (*entry.get(3, ()), *entry.get(4, ()))
        ]
        return Literal(offset, _nodes(parts, positions), is_message=bool(struct.get(1)))
    if 9 in message:
        loop = _message(_first(message, 9))
        start = _node(_first(loop, 4), positions)
        return Loop(
            offset,
            variable=_text(loop, 1),
            accumulator=_text(loop, 3),
            over=_node(_first(loop, 2), positions),
            collects=isinstance(start, Literal),
            step=_node(_first(loop, 6), positions),
        )
    constant = _message(_first(message, 3))
    return Constant(offset, _text(constant, 6) if 6 in constant else None)


def _nodes(parts: list[bytes | int], positions: Mapping[int, int]) -> tuple[Node, ...]:
    return tuple(_node(cast("bytes", part), positions) for part in parts)


def _message(data: bytes | int) -> _Message:
    """The values of each field, by number: integers, or bytes for everything else."""
    assert isinstance(data, bytes)
    found: dict[int, list[bytes | int]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: bytes | int
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            size = _SIZES.get(kind)
            if size is None:
                assert kind == _BYTES, "groups are not part of this format"
                size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _first(message: _Message, number: int) -> bytes:
    """The field's bytes; a message that is left out is an empty one."""
    values = message.get(number)
    return cast("bytes", values[0]) if values else b""


def _number(message: _Message, number: int) -> int:
    values = message.get(number)
    return cast("int", values[0]) if values else 0


def _text(message: _Message, number: int) -> str:
    return _first(message, number).decode()
