"""Every patch of the catalogue applies, and scripts/mutants reports surviving mutants."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CATALOGUE = ROOT / "tests" / "mutants"
PATCHES = sorted(CATALOGUE.glob("*.patch"))
SAMPLE = ("007", "029", "075")
"""Mutants in three packages with quick tests; `scripts/mutants` tries all."""


def mutants(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_mutants.py"), "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def functions_of(file: Path) -> set[str]:
    found = ast.walk(ast.parse(file.read_text()))
    return {n.name for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_patch_applies_and_names_a_test_that_exists() -> None:
    done = mutants("--list")
    assert done.returncode == 0, done.stderr
    assert len(PATCHES) > 50
    for path in PATCHES:
        assert path.stem in done.stdout
        named = re.search(r"^Test: (\S+)::(\w+)$", path.read_text(), re.MULTILINE)
        assert named is not None, path
        assert named[2] in functions_of(ROOT / named[1]), f"{path.name}: {named[0]}"


def test_every_patch_has_its_own_number_and_yields_valid_code() -> None:
    numbers = [path.name.partition("-")[0] for path in PATCHES]
    assert len(set(numbers)) == len(numbers)
    for path in PATCHES:
        assert re.fullmatch(r"\d{3}-[a-z0-9-]+\.patch", path.name)
        changed = [
            line for line in path.read_text().splitlines() if re.match(r"[+-](?![+-])", line)
        ]
        assert 1 <= len(changed) <= 6, f"{path.name} is more than a small change"


def test_a_sample_of_the_mutants_is_killed() -> None:
    done = mutants(*SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SAMPLE)} of {len(SAMPLE)} mutants were killed" in done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one function, a test that checks part of it, and one that never passes."""
    (tmp_path / "tests" / "mutants").mkdir(parents=True)
    (tmp_path / "thing.py").write_text(
        "def is_adult(age: int) -> bool:\n"
        "    # the law of most countries\n"
        "    return age >= 18 and age < 200\n"
    )
    (tmp_path / "tests" / "test_thing.py").write_text(
        "from thing import is_adult\n\n"
        "def test_ages():\n    assert is_adult(18)\n    assert not is_adult(17)\n\n"
        "def test_wrong():\n    assert is_adult(3)\n"
    )
    return tmp_path


def add(project: Path, name: str, new: str, *, test: str = "ages", old: str = "") -> None:
    old = old or "    return age >= 18 and age < 200"
    (project / "tests" / "mutants" / f"{name}.patch").write_text(
        f"Test: tests/test_thing.py::test_{test}\nWhy: children would be let in.\n"
        "--- a/thing.py\n+++ b/thing.py\n@@ -2,2 +2,2 @@\n     # the law of most countries\n"
        f"-{old}\n+{new}\n"
    )


def test_a_surviving_mutant_is_reported(project: Path) -> None:
    add(project, "001-off-by-one", "    return age > 18 and age < 200")
    add(project, "002-too-old", "    return age >= 18 and age < 201")
    before = (project / "thing.py").read_text()
    done = mutants(root=project)
    assert done.returncode == 1
    assert re.search(r"^\[1/2\] 001-off-by-one: killed", done.stdout, re.MULTILINE)
    assert re.search(r"^\[2/2\] 002-too-old: SURVIVED: its test passes", done.stdout, re.MULTILINE)
    assert "1 of 2 mutants were killed" in done.stdout
    assert "children would be let in" in done.stdout
    assert (project / "thing.py").read_text() == before, "only a copy is modified"
    assert mutants("001", root=project).returncode == 0


def test_a_test_that_fails_anyway_is_an_error(project: Path) -> None:
    add(project, "001-broken", "    return age >= 18 and")
    done = mutants(root=project)
    assert done.returncode == 1
    assert "SURVIVED: its test did not run" in done.stdout
    add(project, "001-broken", "    return True", test="wrong")
    done = mutants(root=project)
    assert done.returncode == 2
    assert "must pass before the code is changed" in done.stderr


def test_patches_that_do_not_apply_are_reported(project: Path) -> None:
    assert "holds no mutant" in mutants(root=project).stderr
    add(project, "001-stale", "    return True", old="    return age >= 21")
    done = mutants(root=project)
    assert done.returncode == 1
    assert "001-stale.patch: its lines occur 0 times in thing.py" in done.stderr
    add(project, "001-stale", "    return True")
    done = mutants("never-heard", root=project)
    assert done.returncode == 1
    assert "no mutant is called never-heard" in done.stderr
    assert mutants("--sample", "0", root=project).returncode == 2


def test_a_seed_chooses_the_same_sample_every_time() -> None:
    first, again, other = (
        mutants("--list", "--sample", "5", "--seed", seed).stdout for seed in ("a", "a", "b")
    )
    assert first == again != other
    assert len(re.findall(r"^\d{3}-", first, re.MULTILINE)) == 5
