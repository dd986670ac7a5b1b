"""Reads the tree of a compiled CEL expression from the form in which the runtime serializes it.

That form is the protocol buffer `cel.expr.CheckedExpr` of the CEL specification, wrapped in a
`google.protobuf.Any`. Only the fields that checking and indexing an expression need are read. The
runtime limits how deeply expressions nest (32 levels), so they can be read recursively.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}


class Constant(NamedTuple):
    """A literal of one value. Signed and unsigned integers are both `int`."""

    offset: int
    value: str | bytes | bool | int | float | None

    @property
    def text(self) -> str | None:
        """The value of a string; None for all other kinds."""
        return self.value if isinstance(self.value, str) else None


class Name(NamedTuple):
    """A variable of the environment, or of a macro like `all`."""

    offset: int
    name: str


class Field(NamedTuple):
    """`operand.field`, or `has(operand.field)`."""

    offset: int
    operand: Node
    field: str
    is_test: bool = False
    """Whether it is `has(operand.field)`."""


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
    is_list: bool


class Loop(NamedTuple):
    """A macro that iterates over a list or the keys of a map."""

    offset: int
    variable: str
    accumulator: str
    over: Node
    collects: bool
    """Whether it builds a list, as `map` and `filter` do."""
    step: Node


Node = Constant | Name | Field | Call | Literal | Loop


def read_tree(serialized: bytes) -> Node:
    """Return the tree of what `Expression.serialize` returned.

    Offsets count code points of the filter's text.
    """
    checked = _message(_first(_message(serialized), 2))
    positions: dict[int, int] = {}
    for entry in _message(_first(checked, 5)).get(4, ()):
        pair = _message(entry)
        positions[_number(pair, 1)] = _number(pair, 2)
    return _node(_first(checked, 4), positions)


def calls_of(tree: Node, function: str) -> Iterator[Call]:
    """Yield all calls of this function, in the order of the text."""
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
        is_test = bool(_number(field, 3))
        return Field(offset, _node(_first(field, 1), positions), _text(field, 2), is_test)
    if 6 in message:
        call = _message(_first(message, 6))
        operands = [*call.get(1, ()), *call.get(3, ())]
        return Call(offset, _text(call, 2), _nodes(operands, positions))
    if 7 in message:
        elements = _message(_first(message, 7)).get(1, [])
        return Literal(offset, _nodes(elements, positions), is_message=False, is_list=True)
    if 8 in message:
        entries = _message(_first(message, 8))
        parts = [
            part
            for entry in map(_message, entries.get(2, ()))
            for part in (*entry.get(3, ()), *entry.get(4, ()))
        ]
        is_message = bool(entries.get(1))
        return Literal(offset, _nodes(parts, positions), is_message=is_message, is_list=False)
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
    return Constant(offset, _value(_message(_first(message, 3))))


def _value(constant: _Message) -> str | bytes | bool | int | float | None:
    """Return the value of a `cel.expr.Constant`; None for null."""
    if 2 in constant:
        return bool(_number(constant, 2))
    if 3 in constant:
        number = _number(constant, 3)
        return number - 2**64 if number >= 2**63 else number
    if 4 in constant:
        return _number(constant, 4)
    if 5 in constant:
        value: float = struct.unpack("<d", _first(constant, 5))[0]
        return value
    if 6 in constant:
        return _text(constant, 6)
    return _first(constant, 7) if 7 in constant else None


def _nodes(parts: list[bytes | int], positions: Mapping[int, int]) -> tuple[Node, ...]:
    return tuple(_node(cast("bytes", part), positions) for part in parts)


def _message(data: bytes | int) -> _Message:
    """Return the values of each field by its number: integers, or bytes for other types."""
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
    """Return the bytes of a field; a message that was left out is empty."""
    values = message.get(number)
    return cast("bytes", values[0]) if values else b""


def _number(message: _Message, number: int) -> int:
    values = message.get(number)
    return cast("int", values[0]) if values else 0


def _text(message: _Message, number: int) -> str:
    return _first(message, number).decode()
