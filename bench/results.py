"""Maintains RESULTS.md: a bench that has run replaces its section; other sections stay."""

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


def keep(new: Mapping[str, str], order: Sequence[str]) -> None:
    """Write these sections, by title, among the existing ones.

    Sections that belong to no bench, such as figures of an earlier state, stay unchanged at the
    end.
    """
    kept = sections() | dict(new)
    ordered = sorted(kept, key=lambda title: order.index(title) if title in order else len(order))
    PATH.write_text("\n".join([_INTRO, *(kept[title] for title in ordered)]))


def sections() -> dict[str, str]:
    """Return the sections of RESULTS.md by their titles."""
    if not PATH.exists():
        return {}
    _, *parts = re.split(r"^## ", PATH.read_text(), flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: f"## {part.rstrip()}\n" for part in parts}
