"""Refuses unsupported parts of a filter, and adds up the costs of the others.

The tree of the compiled expression is walked once. These are refused:

- `map` and `filter`: each step copies the list, so memory grows with the square of its length;
- computed values in list and map literals: nested loops double them at each level;
- concatenation in loops, and more than a few elsewhere: all intermediate strings stay in memory;
- computed regular expressions: their cost is not known;
- computed time zones, and those that are not installed: the runtime opens them as files;
- functions that are not listed: none of them is needed to choose events.
"""

from __future__ import annotations

import re
import zoneinfo

from eventstreams.filters.cel_cost import (
    ONCE,
    SCALAR,
    TEXT_BYTES,
    Charges,
    FilterCost,
    Refusal,
    Times,
    Value,
)
from eventstreams.filters.cel_pattern import pattern_cost
from eventstreams.filters.cel_tree import Call, Constant, Field, Literal, Loop, Name, Node

_OFFSET = re.compile(r"[+-]?(?:0?\d|1\d|2[0-3]):[0-5]\d", re.ASCII)
_NOT_ZONES = frozenset({"Factory", "localtime", "posixrules"})
"""Names in the folder of zones that are not zones of a place, but of the machine."""
_INSTALLED = frozenset(zoneinfo.available_timezones()) - _NOT_ZONES
"""Read at import, because later the event loop would wait for the disk."""


def is_zone(name: str) -> bool:
    """Return whether this is an installed IANA zone, or an offset from UTC such as -05:30."""
    return _OFFSET.fullmatch(name) is not None or name in _INSTALLED


PLUS_MAX = 8

_NODE_US = 0.04
_NAME_US = 0.03
_CONSTANT_US = 0.01
_FIELD_US = 0.07
_LITERAL_US = 0.09
_LITERAL_VALUE_US = 0.05
_ITERATION_US = 0.08
_CONVERSION_US = 0.1
_DATE_US = 0.35
_COMPARED_BYTE_US = 0.0002
_COPIED_BYTE_US = 0.001
_COUNTED_BYTE_US = 0.002
_PARSED_BYTE_US = 0.012
_NAME_BYTES = 249
"""Longest name of a topic."""
_NODE_BYTES = 64
"""Memory of an activation that each part of the expression uses."""

_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_PLAIN = frozenset(
    {"_&&_", "_||_", "!_", "-_", "_-_", "_*_", "_/_", "_%_", "@not_strictly_false", "type"}
)
_CONVERSIONS = frozenset({"int", "uint", "double", "string", "bool", "timestamp", "duration"})
ZONED = frozenset(
    {
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
"""Functions that take a time zone."""


def cost_of(tree: Node, text: str) -> FilterCost:
    """Return the cost of a filter. Raises Refusal if it is not accepted or costs too much.

    `text` is what the tree was compiled from.
    """
    walk = _Walk(text)
    walk.value(tree, ONCE)
    return walk.charges.total(walk.scratch_bytes)


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self.charges = Charges()
        self._variables: dict[str, Value] = {
            "event": Value((), exact=True),
            "stream": Value(("meta", "stream"), exact=True),
            "topic": Value(bytes=_NAME_BYTES),
        }
        self._loops = 0
        self._plus = 0
        self._nodes = 0

    # The parts of an expression.

    def value(self, node: Node, times: Times) -> Value:
        self._nodes += 1
        match node:
            case Constant():
                self.charges.charge(times, _CONSTANT_US, node)
                size = 8.0 if node.text is None else float(len(node.text.encode()))
                return Value(bytes=size)
            case Name():
                self.charges.charge(times, _NAME_US, node)
                return self._variables.get(node.name, SCALAR)
            case Field():
                self.charges.charge(times, _FIELD_US, node)
                return _field(self.value(node.operand, times), node.field)
            case Literal():
                return self._literal(node, times)
            case Loop():
                return self._loop(node, times)
            case Call():
                return self._call(node, times)

    def _literal(self, node: Literal, times: Times) -> Value:
        if node.is_message:
            raise Refusal("messages are not supported", node.offset)
        size = _literal_size(node)
        self.charges.charge(times, _LITERAL_US + _LITERAL_VALUE_US * size.values, node)
        return size

    def _loop(self, node: Loop, times: Times) -> Value:
        if node.collects:
            name = self._name_before(node.offset)
            raise Refusal(f"{name}() is not supported: use all() or exists()", node.offset)
        over = self.value(node.over, times)
        self._loops += 1
        loop = self._loops
        if over.path is None:
            inside = times._replace(number=times.number * over.values)
            variable = over
        elif times.path is None or over.loop == times.loop:
            inside = Times(times.number * over.copies, times.path or over.path, loop)
            variable = Value(over.path, loop=loop)
        else:
            raise Refusal(
                "a loop within a loop may only iterate over a part of the outer loop's value, not "
                "over the event again",
                node.offset,
            )
        hidden = {name: self._variables.get(name) for name in (node.variable, node.accumulator)}
        self._variables |= {node.variable: variable, node.accumulator: SCALAR}
        outermost = self.charges.outermost
        self.charges.outermost = node.offset if outermost is None else outermost
        self.charges.charge(inside, _ITERATION_US, node)
        for part in _body(node):
            self.value(part, inside)
        self.charges.outermost = outermost
        for name, value in hidden.items():
            if value is None:
                del self._variables[name]
            else:
                self._variables[name] = value
        return SCALAR

    def _call(self, node: Call, times: Times) -> Value:  # noqa: PLR0911 - one for each kind
        function = node.function
        if function == "matches":
            return self._matches(node, times)
        values = [self.value(argument, times) for argument in node.arguments]
        if function in _CONVERSIONS:
            self.charges.charge(times, _CONVERSION_US, node)
            self.charges.charge_size(times, values[0], node, byte_us=_PARSED_BYTE_US)
            return values[0]._replace(exact=False) if function == "string" else SCALAR
        self.charges.charge(times, _DATE_US if function in ZONED else _NODE_US, node)
        match function:
            case "dyn":
                return values[0]
            case "_[_]":
                return _indexed(values[0], node.arguments[1])
            case "_?_:_":
                return _merged(values[1], values[2])
            case "_+_":
                return self._sum(node, values, times)
            case _:
                self._charge_scalar(node, values, times)
                return SCALAR

    def _charge_scalar(self, node: Call, values: list[Value], times: Times) -> None:
        """Charge the work of a function whose result is small, in addition to the call."""
        match node.function:
            case "@in":
                if not (values[1].path == () and values[1].exact):  # no key of the event
                    self.charges.look_up(times, values[1], node)
            case "size":
                self.charges.charge_size(times, values[0], node, byte_us=_COUNTED_BYTE_US)
            case "startsWith" | "endsWith":
                self.charges.charge_least(times, values, node, byte_us=_COMPARED_BYTE_US)
            case "contains":
                self.charges.search(times, values[0], values[1], node)
            case function if function in _COMPARISONS:
                self.charges.compare(times, values, node)
            case function if function in ZONED:
                self._check_zone(node)
            case function if function not in _PLAIN:
                raise Refusal(f"there is no function {function}()", node.offset)
            case _:
                pass

    def _sum(self, node: Call, values: list[Value], times: Times) -> Value:
        self._plus += 1
        if self.charges.outermost is not None:
            name = self._name_before(self.charges.outermost)
            raise Refusal(f"+ is not supported within {name}()", node.offset)
        if self._plus > PLUS_MAX:
            raise Refusal(f"+ is used more than {PLUS_MAX} times", node.offset)
        for value in values:
            self.charges.charge_size(times, value, node, byte_us=_COPIED_BYTE_US)
        if all(value.path is None for value in values):
            return Value(bytes=sum(value.bytes for value in values))
        return Value((), copies=sum(value.copies for value in values))

    def _matches(self, node: Call, times: Times) -> Value:
        pattern = node.arguments[-1]
        if not isinstance(pattern, Constant) or pattern.text is None:
            raise Refusal("a regular expression must be a literal string", node.offset)
        text = self.value(node.arguments[0], times)
        cost = pattern_cost(pattern.text, TEXT_BYTES)
        advice = (
            f"a regular expression of about {cost.size:,} instructions. It costs less if it begins "
            "with ^ and has no * or +, or with literal characters instead of classes and "
            "repetitions; contains(), startsWith() and endsWith() cost least"
        )
        self.charges.charge(times, cost.fixed_us, pattern, advice)
        self.charges.charge_size(times, text, pattern, byte_us=cost.byte_us, advice=advice)
        return SCALAR

    def _check_zone(self, node: Call) -> None:
        for zone in node.arguments[1:]:
            if not isinstance(zone, Constant) or zone.text is None:
                raise Refusal(
                    "a time zone must be a literal string such as 'Europe/Berlin'", node.offset
                )
            if not is_zone(zone.text):
                raise Refusal(
                    f"unknown time zone {zone.text[:60]!r}: give the name of an IANA zone like "
                    "'Europe/Berlin', or an offset from UTC like '+05:30'",
                    zone.offset,
                )

    @property
    def scratch_bytes(self) -> int | None:
        """About how many bytes of an activation an evaluation uses; None if the event decides."""
        return None if self._loops or self._plus else _NODE_BYTES * self._nodes

    def _name_before(self, offset: int) -> str:
        """Return the name of the function whose opening bracket is at `offset`."""
        found = re.search(r"(\w+)\s*$", self._text[:offset])
        return found[1] if found else "this"


def _body(node: Loop) -> list[Node]:
    """Return what each iteration evaluates, without the parts that the macro adds."""
    step = node.step
    assert isinstance(step, Call)
    return [part for part in step.arguments if not _counts(part, node.accumulator)]


def _counts(node: Node, accumulator: str) -> bool:
    if isinstance(node, Name):
        return node.name == accumulator
    return isinstance(node, Call) and any(_counts(part, accumulator) for part in node.arguments)


def _literal_size(node: Node) -> Value:
    """Return the size of a literal. Raises Refusal if a part of it is computed."""
    if isinstance(node, Constant):
        return Value(bytes=8.0 if node.text is None else float(len(node.text.encode())))
    if isinstance(node, Call) and node.function == "-_":
        return _literal_size(node.arguments[0])
    if not isinstance(node, Literal) or node.is_message:
        raise Refusal("lists and maps may only contain literals", _start_of(node))
    sizes = [_literal_size(part) for part in node.parts]
    return Value(
        bytes=sum((size.bytes for size in sizes), 8.0),
        values=sum((size.values for size in sizes), 1.0),
    )


def _start_of(node: Node) -> int:
    """Return where the text of a node begins; its offset may be that of an operator within."""
    match node:
        case Field():
            return min(node.offset, _start_of(node.operand))
        case Loop():
            return min(node.offset, _start_of(node.over))
        case Call():
            return min([node.offset, *map(_start_of, node.arguments)])
        case _:
            return node.offset


def _field(value: Value, name: str) -> Value:
    if value.path is None or not value.exact:
        return value
    return value._replace(path=(*value.path, name))


def _indexed(value: Value, key: Node) -> Value:
    if isinstance(key, Constant) and key.text is not None:
        return _field(value, key.text)
    return value._replace(exact=False)


def _merged(first: Value, second: Value) -> Value:
    """Return a value that is one of the two."""
    if first.path is None or second.path is None:
        known = second if first.path is None else first
        larger = max(first.bytes, second.bytes), max(first.values, second.values)
        return known._replace(exact=False, bytes=larger[0], values=larger[1])
    if first.path == second.path and first.loop == second.loop:
        return first._replace(exact=False, copies=max(first.copies, second.copies))
    return Value((), copies=max(first.copies, second.copies))
