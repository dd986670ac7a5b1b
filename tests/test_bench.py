"""The shortest soak meets its aims: mixed load on one gateway for some seconds. Results of `abuse`
are kept between runs."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

from bench.abuse import Found, Phase, record, recorded

ROOT = Path(__file__).parent.parent
PATIENCE_S = 300


def test_mixed_load_leaves_nothing_behind() -> None:
    command = [str(ROOT / "scripts" / "bench"), "--quick", "soak"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| files left over " in done.stdout


def test_recorded_results_of_attacks_add_up(tmp_path: Path) -> None:
    file = tmp_path / "results"
    assert recorded(file) == {}
    phases = [Phase(1.5, 2.0, 3.0), Phase(math.inf, math.inf, 0.0)]
    first = Found(phases, math.inf, 20.5, 0, 10, 1, [{"200": 3}], 0.2)
    second = first._replace(wrong=4)
    record(file, "posts", first)
    record(file, "filters", first)
    record(file, "posts", second)
    assert recorded(file) == {"posts": [first, second], "filters": [first]}
