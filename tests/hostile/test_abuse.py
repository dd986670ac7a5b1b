"""Runs every attack of `scripts/bench abuse` briefly, from ten addresses each, on one gateway.

Meanwhile, 100 other clients get every event once and in order, and keep their connections; a
bystander that requests /healthz and posts events is always served; no pass of the event
loop takes longer than 250 ms of processor time; memory grows by less than 256 MiB in all; and
SIGTERM afterwards ends the process with status 0. The bench measures delays, which depend on the
load of the machine. An attack that sends no request fails the test.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300


def test_attacks_do_not_affect_other_clients() -> None:
    command = [str(ROOT / "scripts" / "bench"), "--quick", "abuse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ATTACKS:
        assert f"| {name} " in done.stdout, "each attack took place"
    print(done.stdout)  # the number of responses to each attack, for `pytest -s`
