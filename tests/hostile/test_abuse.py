"""Every attack of `scripts/bench abuse` for a short time, ten addresses each, at one gateway.

While they last, 100 innocent clients get every event once and in order, and no connection of theirs
ends; a bystander who asks for /healthz and posts events is always served; no pass of the event loop
takes longer than 250 ms of processor time; memory grows by less than 448 MiB in all; and SIGTERM
afterwards ends the process with status 0. How soon events arrive is left to the bench, because a
busy machine changes it. An attack that could not send a single request is a failure, too.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300


def test_no_attack_reaches_the_innocent() -> None:
    command = [str(ROOT / "scripts" / "bench"), "--quick", "abuse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ATTACKS:
        assert f"| {name} " in done.stdout, "each attack was made"
    print(done.stdout)  # with the number of answers to each attack, for `pytest -s`
