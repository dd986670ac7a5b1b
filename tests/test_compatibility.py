"""The tests that docs/compatibility.md names exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_test_named_by_the_compatibility_table_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/compatibility.md").read_text()))
    there: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"def (test_\w+)\(", path.read_text()))
    assert named
    assert named <= there, named - there
