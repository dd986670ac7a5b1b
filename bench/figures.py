"""The results of benches: figures with their aims, formatted as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

HEADINGS = ("Figure", "Median", "Min to max", "Runs", "Aim", "Met")


class Aim(NamedTuple):
    limit: float
    at_least: bool = False


def at_most(limit: float) -> Aim:
    return Aim(limit)


def at_least(limit: float) -> Aim:
    return Aim(limit, at_least=True)


class Figure(NamedTuple):
    """A quantity measured in one or several runs, of which the median counts."""

    name: str
    values: Sequence[float]
    unit: str = ""
    aim: Aim | None = None

    @property
    def is_met(self) -> bool | None:
        if self.aim is None:
            return None
        found = median(self.values)
        return found >= self.aim.limit if self.aim.at_least else found <= self.aim.limit

    def row(self) -> tuple[str, ...]:
        met = {None: "", True: "yes", False: "**no**"}[self.is_met]
        aim = ""
        if self.aim is not None:
            sign = ">=" if self.aim.at_least else "<="
            aim = f"{sign} {self._text(self.aim.limit)}"
        spread = ""
        if len(self.values) > 1:
            spread = f"{_number(min(self.values))} to {_number(max(self.values))}"
        return (
            self.name,
            self._text(median(self.values)),
            spread,
            str(len(self.values)),
            aim,
            met,
        )

    def heading(self, name: str) -> str:
        """Return the heading of a column of such figures."""
        about = [self.unit] if self.unit else []
        if self.aim is not None:
            about.append(f"{'>=' if self.aim.at_least else '<='} {_number(self.aim.limit)}")
        return f"{name} ({' '.join(about)})" if about else name

    def cell(self) -> str:
        text = _number(median(self.values))
        return f"**{text}**" if self.is_met is False else text

    def _text(self, value: float) -> str:
        return f"{_number(value)} {self.unit}".rstrip()


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(figures: Sequence[Figure]) -> str:
    """Return a Markdown table, aligned so that it is readable on a terminal too."""
    return _aligned([HEADINGS, *(figure.row() for figure in figures)])


def grid(figures: Sequence[Figure]) -> str:
    """Return figures named "row: column" as a table of their medians.

    The heading of a column contains its aim, and a median that misses it is bold.
    """
    rows: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        row, _, column = figure.name.partition(": ")
        rows.setdefault(row, {})[column] = figure
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    heads = [next(row[column] for row in rows.values() if column in row) for column in columns]
    headings = ["", *(each.heading(column) for each, column in zip(heads, columns, strict=True))]
    lines = [
        (name, *(row[column].cell() if column in row else "" for column in columns))
        for name, row in rows.items()
    ]
    return _aligned([tuple(headings), *lines])


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
