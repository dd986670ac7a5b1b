"""The pages that scripts/docs makes from the code are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import charts
from tests.docs.pages import ROOT


@pytest.mark.parametrize("name", ["cli", "http"])
def test_a_page_made_from_code_is_up_to_date(name: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"_{name}.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs" / f"{name}.md").read_text() == made.stdout, "run scripts/docs"


def test_the_charts_show_the_results(tmp_path: Path) -> None:
    charts.draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in charts.FOLDER.glob("*.svg")} == drawn
    assert all(text.count("<rect") > 1 for text in drawn.values()), "every chart has bars"
