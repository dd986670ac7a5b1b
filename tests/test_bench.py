"""The shortest soak: everything at once at one gateway for some seconds, with its aims held."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE_S = 300


def test_after_mixed_load_nothing_is_wrong_and_nothing_is_left_over() -> None:
    command = [str(ROOT / "scripts" / "bench"), "--quick", "soak"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| files left over " in done.stdout
