"""Draws the figures of RESULTS.md as bar charts in docs/images/, for light and dark pages.

`scripts/bench` draws them after each bench, and `scripts/docs` on its own. A bar whose figure is
not in RESULTS.md is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

from bench import results
from bench.child import TOP

FOLDER = TOP / "docs" / "images"

_WIDTH, _LABELS, _BAR, _GAP, _HEAD = 760, 300, 18, 6, 58
_STYLE = """\
text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-size:16px;font-weight:600}
.s,.g{fill:#59636e}.g{font-weight:600}.gateway{fill:#0969da}.floor{fill:#8c959f}.other{fill:#bc4c00}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.s,.g{fill:#9198a1}
.gateway{fill:#4493f8}.floor{fill:#656c76}.other{fill:#db6d28}}"""


class Bar(NamedTuple):
    """A figure of a section of RESULTS.md. `kind` is `gateway`, `floor` or `other`, its colour."""

    group: str
    label: str
    section: str
    figure: str
    kind: str = "gateway"


class Chart(NamedTuple):
    name: str
    title: str
    subtitle: str
    bars: tuple[Bar, ...]


def _cost(group: str, section: str, prefix: str) -> tuple[Bar, ...]:
    return (
        Bar(group, "bare write() loop in C", section, f"{prefix}floor, per event", "floor"),
        Bar(group, "nchan", section, f"{prefix}nchan, per event", "other"),
        Bar(group, "eventstreams", section, f"{prefix}gateway, per event"),
    )


_ONE_RUN = "beside nchan"
_CHARTS = (
    Chart(
        "cost",
        "Processor time per delivered event",
        "microseconds; less is better. Under load, events are sent in batches",
        (
            *_cost("1,000 clients, 20 events/s", "steady", ""),
            *_cost("1,000 clients, 100 events/s", "busy", "1,000 x 100/s: "),
            *_cost("3,000 clients, 50 events/s", "busy", "3,000 x 50/s: "),
            *_cost("in another run: 1,000 clients, 20 events/s", _ONE_RUN, "1,000 x 20/s: "),
            *_cost("in another run: 1,000 clients, 100 events/s", _ONE_RUN, "1,000 x 100/s: "),
        ),
    ),
    Chart(
        "latency",
        "Latency from the append to a client",
        "milliseconds; less is better",
        (
            Bar("one client, 100 events/s", "embedded log, median", "latency", "embedded: median"),
            Bar("one client, 100 events/s", "embedded log, p99", "latency", "embedded: p99"),
            Bar("one client, 100 events/s", "Kafka, median", "latency", "Kafka: median"),
            Bar("one client, 100 events/s", "Kafka, p99", "latency", "Kafka: p99"),
            Bar("1,000 clients, 20 events/s", "median", "steady", "latency, p50"),
            Bar("1,000 clients, 20 events/s", "p99", "steady", "latency, p99"),
            Bar(
                "1,000 clients, 20 events/s",
                "p99 of the write() loop",
                "steady",
                "latency of the floor, p99",
                "floor",
            ),
            Bar("1,000 clients, 100 events/s", "p99", "busy", "1,000 x 100/s: latency, p99"),
        ),
    ),
    Chart(
        "replay",
        "Replay of 200,000 events to one client",
        "events per second; more is better",
        (
            Bar("for comparison", "bare write() loop in C", "catch_up", "floor: events", "floor"),
            *(
                Bar(events, log, "catch_up", f"{log}, {events}: events")
                for events in ("plain events", "recent changes")
                for log in ("embedded", "Kafka")
            ),
        ),
    ),
    Chart(
        "memory",
        "Memory per client",
        "KiB; less is better",
        (
            Bar("a client that waits", "in the process", "idle", "memory per connection"),
            Bar("a client that never reads", "in the process", "stalled", "growth per stalled"),
            Bar(
                "a client that never reads",
                "in the kernel, both ends",
                "stalled",
                "kernel, both ends, per stalled",
                "floor",
            ),
        ),
    ),
)
_ATTACKS = Chart(
    "attacks",
    "Latency of 100 innocent clients beside an attacker",
    "99th percentile in milliseconds: before the attack, and the worst during it",
    (),
)
_BEFORE, _DURING = "p99 before (ms)", ("p99, one (ms <= 250)", "p99, ten (ms <= 250)")


def draw(folder: Path = FOLDER) -> None:
    """Write all charts."""
    sections = results.sections()
    folder.mkdir(exist_ok=True)
    for chart in _CHARTS:
        rows = [
            (bar.group, bar.label, value, bar.kind)
            for bar in chart.bars
            if (value := _figures(sections.get(bar.section, "")).get(bar.figure)) is not None
        ]
        (folder / f"{chart.name}.svg").write_text(_svg(chart, rows))
    attacks = sections["abuse"]
    (folder / f"{_ATTACKS.name}.svg").write_text(_svg(_ATTACKS, list(_attacks(attacks))))


def _figures(section: str) -> Mapping[str, float]:
    """Return the medians of a section's table by the names of the figures."""
    return {
        cells[0]: float(cells[1].split()[0].replace(",", ""))
        for cells in _rows(section)
        if re.match(r"[\d.,]+( |$)", cells[1])
    }


def _attacks(section: str) -> Iterator[tuple[str, str, float, str]]:
    headings, *rows = _rows(section)
    for cells in rows:
        row = dict(zip(headings, cells, strict=True))
        worst = max(float(row[name].strip("*")) for name in _DURING if row[name])
        yield "", cells[0], worst, "gateway"
        yield "", "before", float(row[_BEFORE].strip("*")), "floor"


def _rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, its headings first."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if not re.fullmatch(r"[|\- ]+", line)
    ]


def _svg(chart: Chart, rows: list[tuple[str, str, float, str]]) -> str:
    """Return a chart of rows (group, label, value, kind). Each group but "" has a heading."""
    scale = (_WIDTH - _LABELS - 90) / max(value for _, _, value, _ in rows)
    shapes: list[str] = []
    y, last = _HEAD, ""
    for group, label, value, kind in rows:
        if group != last:
            y += _GAP if last else 0
            shapes.append(f'<text class="g" x="12" y="{y + 13}">{escape(group)}</text>')
            y, last = y + _BAR + _GAP, group
        width = max(1, round(value * scale))
        middle = y + 13
        shapes.append(
            f'<text x="{_LABELS - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>'
        )
        shapes.append(
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{width}" height="{_BAR}" rx="3"/>'
        )
        shapes.append(f'<text x="{_LABELS + width + 8}" y="{middle}">{_number(value)}</text>')
        y += _BAR + _GAP
    height = y + 10
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
            f' width="{_WIDTH}" height="{height}">',
            f"<title>{escape(chart.title)}</title>\n<style>{_STYLE}</style>",
            f'<text class="t" x="12" y="24">{escape(chart.title)}</text>',
            f'<text class="s" x="12" y="44">{escape(chart.subtitle)}</text>',
            *shapes,
            "</svg>\n",
        )
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    draw()
