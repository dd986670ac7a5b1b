"""The scripts report what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PRETEND = """#!/bin/sh
exec {python} -c 'import sys, sysconfig
{pretence}
exec(sys.argv[2])' "$@"
"""


@pytest.mark.parametrize(
    ("pretence", "reason"),
    [
        ('sysconfig.get_config_var = lambda _: "x86_64-pc-linux-musl"', "musl"),
        ("sys.version_info = (3, 15, 0)", "Python 3.15"),
        ('sys.implementation.name = "pypy"', "pypy"),
    ],
)
def test_a_missing_filter_wheel_is_reported_in_one_line(
    pretence: str, reason: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(PRETEND.format(python=sys.executable, pretence=pretence))
    python.chmod(0o755)
    kept, said = _requirements_for(python)
    assert said == [
        f"==> no wheel of cel-expr-python for {reason}: "
        "filter= will answer 501, everything else works"
    ]
    everything = _names((ROOT / "requirements/runtime.txt").read_text())
    assert set(everything) - set(_names(kept)) == {"cel-expr-python"}


def test_with_a_filter_wheel_requirements_are_unchanged() -> None:
    kept, said = _requirements_for(Path(sys.executable))
    assert said == []
    assert kept == (ROOT / "requirements/runtime.txt").read_text()


def _requirements_for(python: Path) -> tuple[str, list[str]]:
    script = f'. scripts/_env.sh; requirements_for "{python}" requirements/runtime.txt'
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    plain = done.stderr.replace("\033[1m", "").replace("\033[0m", "")
    return done.stdout, plain.splitlines()


def _names(requirements: str) -> list[str]:
    return [line.split("==")[0] for line in requirements.splitlines() if "==" in line]
