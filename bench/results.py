"""RESULTS.md: a section per bench, replaced when that bench has run again, else left as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bench.child import TOP

PATH = TOP / "bench" / "RESULTS.md"
_INTRO = """\
# Results of the benches

Written by `scripts/bench`; see [README.md](README.md) for what is measured and how. Ratios to the
floor come from runs that took turns with it. A figure is the median of its runs.
"""


def section(title: str, about: str, measured: str, table: str) -> str:
    return f"## {title}\n\n{about}\n\n{table}\n\nMeasured {measured}.\n"


def keep(sections: Mapping[str, str], order: Sequence[str]) -> None:
    """Write these sections, by title, among those that are there. Sections that no bench has, such
    as figures of an earlier state, stay as they are, at the end."""
    kept = _read() | dict(sections)
    ordered = sorted(kept, key=lambda title: order.index(title) if title in order else len(order))
    PATH.write_text("\n".join([_INTRO, *(kept[title] for title in ordered)]))


def _read() -> dict[str, str]:
    if not PATH.exists():
        return {}
    _, *parts = re.split(r"^## ", PATH.read_text(), flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: f"## {part.rstrip()}\n" for part in parts}
