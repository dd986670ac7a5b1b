"""Estimates the cost of a filter from its compiled expression, before it is used for any event.

A cost is a sum: a fixed time for each evaluation, a time for each byte of the strings and for each
value of the lists and maps that the filter examines, and the product of two lengths if one string
is searched for another. It is computed for a reference event to decide whether the filter is
accepted, and for every large event to decide whether the filter is evaluated. A loop within a loop
is accepted only if it goes through a part of what the outer loop has reached, so that the cost
remains such a sum.

All figures are upper bounds, in microseconds, taken from measurements of the runtime on a slow
core; a test compares them with measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from eventstreams.filters.cel_tree import Node
from eventstreams.filters.document import Document

COST_US_MAX = 200.0
"""The longest time that an accepted filter may take for the reference event."""
EVALUATION_US_MAX = 5_000.0
"""The longest time that an evaluation may take; a filter that could take longer does not match."""
TEXT_BYTES, LIST_VALUES = 400, 150
"""The size of each string and each list of the reference event, which has about 10 KB."""

_EVALUATION_US = 4.0
_COMPARED_VALUE_US = 0.08
_LISTED_VALUE_US = 0.03
"""For each value of a literal that a value is compared with or looked up in."""
_COMPARED_BYTE_US = 0.0002
_SEARCHED_BYTE_US = 0.006
_SEARCHED_PRODUCT_US = 0.000_015
"""For each byte of the text times each byte of what is searched for."""
_SIZED_BYTE_US = 0.0012
"""For each byte of a field, to determine its size."""
_CONVERTED_VALUE_US, _CONVERTED_BYTE_US = 0.08, 0.0001
"""If the event is converted for this evaluation only."""
_BYTES_PER_VALUE = 2
"""The fewest bytes that a value takes in an event."""

Path = tuple[str, ...]


class Refusal(Exception):
    """A part of a valid expression is not accepted; `offset` says where it is."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


class FilterCost(NamedTuple):
    """Costs by the path of the event's field that they depend on; () is the whole event."""

    fixed_us: float
    byte_us: Mapping[Path, float]
    value_us: Mapping[Path, float]
    products: tuple[tuple[Path, Path], ...]
    """Pairs of a string that is searched and the string that it is searched for."""
    scratch_bytes: int | None
    """About how much memory an evaluation uses in the activation; None if that can be much."""

    @property
    def reference_us(self) -> float:
        """The cost for the reference event."""
        return (
            self.fixed_us
            + sum(self.byte_us.values()) * TEXT_BYTES
            + sum(self.value_us.values()) * LIST_VALUES
            + len(self.products) * TEXT_BYTES**2 * _SEARCHED_PRODUCT_US
        )

    def most_us(self, document: Document) -> float:
        """Return the highest cost for this event, including finding the sizes of its fields.

        A result above `EVALUATION_US_MAX` may be too low, because adding up stops there.
        """
        whole = document.size_of(())
        if (bound := self._total(lambda _: whole)) <= EVALUATION_US_MAX:
            return bound  # no field is larger than the event
        sizes: dict[Path, tuple[int, int]] = {(): whole}
        total = self.fixed_us
        for path in {**self.byte_us, **self.value_us}:
            if path not in sizes:
                size = sizes[path] = document.size_of(path)
                total += size[0] * _SIZED_BYTE_US if size[1] > 1 else 0.0
            total += self.byte_us.get(path, 0.0) * sizes[path][0]
            total += self.value_us.get(path, 0.0) * sizes[path][1]
            if total > EVALUATION_US_MAX:
                return total
        return total + self._products_us(lambda path: sizes.get(path, whole))

    def _total(self, size_of: Callable[[Path], tuple[int, int]]) -> float:
        total = self.fixed_us + self._products_us(size_of)
        total += sum(us * size_of(path)[0] for path, us in self.byte_us.items())
        return total + sum(us * size_of(path)[1] for path, us in self.value_us.items())

    def _products_us(self, size_of: Callable[[Path], tuple[int, int]]) -> float:
        bytes_2 = sum(size_of(text)[0] * size_of(sought)[0] for text, sought in self.products)
        return bytes_2 * _SEARCHED_PRODUCT_US

    @property
    def bytes_safe(self) -> int:
        """The size of events up to which no evaluation can take longer than `EVALUATION_US_MAX`."""
        linear = sum(self.byte_us.values()) + sum(self.value_us.values()) / _BYTES_PER_VALUE
        square = len(self.products) * _SEARCHED_PRODUCT_US
        low, high = 0, 2**40
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.fixed_us + linear * middle + square * middle**2 <= EVALUATION_US_MAX
            low, high = (middle, high) if fits else (low, middle)
        return low


class Times(NamedTuple):
    """How often something is evaluated: `number` times, or as often for each value at `path`."""

    number: float
    path: Path | None = None
    loop: int = 0
    """The loop that iterates over these values."""


ONCE = Times(1.0)


class Value(NamedTuple):
    """The result of an expression, as far as its size matters."""

    path: Path | None = None
    """Its path in the event; None if it is not a part of the event."""
    exact: bool = False
    """Whether it is the field at the path itself, and not a part of that field."""
    loop: int = 0
    """The loop whose variable it is a part of: each iteration sees another part of the path."""
    copies: float = 1.0
    """How many times it may contain what is at the path."""
    bytes: float = 8.0
    """Its size, if it is not a part of the event. The same applies to `values`."""
    values: float = 1.0


SCALAR = Value()


class Charges:
    """Adds up the costs of the parts of an expression."""

    def __init__(self) -> None:
        self.outermost: int | None = None
        """The offset of the outermost loop around the part that is being charged."""
        self._fixed_us = _EVALUATION_US
        self._byte_us: dict[Path, float] = {}
        self._value_us: dict[Path, float] = {}
        self._products: list[tuple[Path, Path]] = []
        self._spent: dict[int, tuple[float, str]] = {}
        """By offset: what the parts there cost for the reference event, and how to reduce that."""

    def total(self, scratch_bytes: int | None) -> FilterCost:
        """Return the cost of the filter. Raises Refusal if it is too high."""
        if scratch_bytes is None:
            self._add(self._value_us, (), _CONVERTED_VALUE_US)
            self._add(self._byte_us, (), _CONVERTED_BYTE_US)
        cost = FilterCost(
            self._fixed_us, self._byte_us, self._value_us, tuple(self._products), scratch_bytes
        )
        if cost.reference_us > COST_US_MAX:
            offset, (spent_us, advice) = max(self._spent.items(), key=lambda item: item[1][0])
            raise Refusal(
                f"the filter may take {cost.reference_us:,.0f} µs for an ordinary event of 10 KB, "
                f"but the limit is {COST_US_MAX:.0f} µs; {spent_us:,.0f} µs of it are for this "
                f"part: {advice}",
                offset,
            )
        return cost

    def compare(self, times: Times, values: list[Value], node: Node) -> None:
        """Charge a comparison, which ends at the latest with the smaller of the values."""
        self.charge_least(
            times, values, node, byte_us=_COMPARED_BYTE_US, value_us=_COMPARED_VALUE_US
        )

    def look_up(self, times: Times, among: Value, node: Node) -> None:
        """Charge a look-up in a list or among the keys of a map."""
        value_us = _LISTED_VALUE_US if among.path is None else _COMPARED_VALUE_US
        self.charge_size(times, among, node, byte_us=_COMPARED_BYTE_US, value_us=value_us)

    def search(self, times: Times, text: Value, sought: Value, node: Node) -> None:
        """Charge the search of one string for another."""
        byte_us = _SEARCHED_BYTE_US
        if sought.path is None:
            byte_us += sought.bytes * _SEARCHED_PRODUCT_US
        else:
            self.charge_size(times, sought, node, byte_us=byte_us)
            products = max(1, round(times.number * text.copies * sought.copies))
            self._products += [(text.path or (), sought.path)] * min(products, 100)
        self.charge_size(times, text, node, byte_us=byte_us)

    def charge_least(
        self,
        times: Times,
        values: list[Value],
        node: Node,
        *,
        byte_us: float,
        value_us: float = 0.0,
    ) -> None:
        """Charge by the size of the smallest of the values."""

        def size(value: Value) -> int:
            if value.path is None:
                return 0
            return 1 if times.path is None or value.loop == times.loop else 2

        least = min(values, key=size)
        if least.path is None:
            value_us = min(value_us, _LISTED_VALUE_US)
        self.charge_size(times, least, node, byte_us=byte_us, value_us=value_us)

    def charge(self, times: Times, us: float, node: Node, advice: str = "") -> None:
        """Charge `us` microseconds for each evaluation."""
        us *= times.number
        if times.path is None:
            self._fixed_us += us
            self._note(node, us, advice)
        else:
            self._add(self._value_us, times.path, us)
            self._note(node, us * LIST_VALUES, advice)

    def charge_size(
        self,
        times: Times,
        value: Value,
        node: Node,
        *,
        byte_us: float,
        value_us: float = 0.0,
        advice: str = "",
    ) -> None:
        """Charge for each byte and each value of a result, in each evaluation."""
        if value.path is None:
            self.charge(times, value.bytes * byte_us + value.values * value_us, node, advice)
            return
        if times.path is not None and value.loop != times.loop:
            raise Refusal(
                "a loop may examine only parts of its own variable as a whole, not other parts of "
                "the event",
                node.offset,
            )
        count = times.number * value.copies
        self._add(self._byte_us, value.path, byte_us * count)
        self._add(self._value_us, value.path, value_us * count)
        reference_us = count * (byte_us * TEXT_BYTES + value_us * LIST_VALUES)
        self._note(node, reference_us, advice)

    def _add(self, costs: dict[Path, float], path: Path, us: float) -> None:
        if us:
            costs[path] = costs.get(path, 0.0) + us

    def _note(self, node: Node, us: float, advice: str) -> None:
        offset = node.offset
        if self.outermost is not None and not advice:
            offset = self.outermost
            advice = f"a loop over up to {LIST_VALUES} values: shorten its body"
        spent_us, known = self._spent.get(offset, (0.0, ""))
        self._spent[offset] = spent_us + us, advice or known or "examine less of the event"
