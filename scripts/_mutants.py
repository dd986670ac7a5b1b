"""Apply each change in tests/mutants to a copy of the checkout and run the test that must notice.

A mutant is a unified diff below two header lines:

    Test: tests/folder/test_file.py::test_name
    Why: one sentence that says what a user would see.

A patch applies where the lines that it removes, with their context, occur exactly once in the file.
Line numbers are ignored, so a patch survives changes elsewhere in the file.

Exit status: 0, every test noticed its mutant; 1, some did not, or a patch does not apply; 2, the
arguments are wrong, or a named test fails without a mutant.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("tests", "mutants")
TEST_S_MAX = 600
"""A test that takes longer with a mutant counts as one that did not notice it."""
SHARED = (".venv", ".kafka", ".clients")
"""What the copies share with the checkout; everything else is copied."""


class BadPatch(Exception):
    """The message says what is wrong with a patch."""


class Mutant(NamedTuple):
    name: str
    """Of the file, without `.patch`."""
    test: str
    why: str
    file: str
    """The changed file, relative to the checkout."""
    old: str
    """The lines that the patch removes, with the context around them."""
    new: str

    def applied(self, text: str) -> str:
        """Return the text of the file with the change. Raises BadPatch."""
        found = f"\n{text}".count(f"\n{self.old}")
        if found != 1:
            raise BadPatch(f"its lines occur {found} times in {self.file}; they must occur once")
        return f"\n{text}".replace(f"\n{self.old}", f"\n{self.new}")[1:]


class Result(NamedTuple):
    mutant: Mutant
    killed: bool
    summary: str
    seconds: float


def parse(path: Path) -> Mutant:
    """Read one patch. Raises BadPatch."""
    head, _, diff = path.read_text().partition("--- ")
    fields = dict(re.findall(r"^(Test|Why): (.+)$", head, re.MULTILINE))
    if fields.keys() != {"Test", "Why"}:
        raise BadPatch("it must begin with a line `Test: …` and a line `Why: …`")
    if not re.fullmatch(r"tests/[\w/]+\.py::test_\w+", fields["Test"]):
        raise BadPatch("`Test:` must name one test, like tests/web/test_limits.py::test_name")
    match = re.fullmatch(r"a/(\S+)\n\+\+\+ b/(\S+)\n@@ .*\n((?:[ +-].*\n)+)", diff)
    if match is None or match[1] != match[2]:
        raise BadPatch("it must hold one unified diff with one hunk, of one file")
    lines = match[3].splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    return Mutant(path.stem, fields["Test"], fields["Why"], match[1], old, new)


def load(root: Path) -> list[Mutant]:
    """Read the catalogue, in the order of its names. Raises BadPatch."""
    mutants: list[Mutant] = []
    for path in sorted((root / FOLDER).glob("*.patch")):
        try:
            mutant = parse(path)
            mutant.applied((root / mutant.file).read_text())
        except (BadPatch, OSError) as error:
            raise BadPatch(f"{path.relative_to(root)}: {error}") from error
        mutants.append(mutant)
    return mutants


def chosen(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Return those that are named, by name or number or pattern; all without names.

    Raises BadPatch where a name fits none.
    """
    found: dict[str, Mutant] = {}
    for name in names:
        wanted = Path(name).name.removesuffix(".patch")
        mine = [m for m in mutants if fnmatch.fnmatch(m.name, wanted)]
        mine = mine or [m for m in mutants if m.name.startswith(f"{wanted}-")]
        if not mine:
            raise BadPatch(f"no mutant is called {name}; --list shows their names")
        found.update((mutant.name, mutant) for mutant in mine)
    return list(found.values()) if names else list(mutants)


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """Make a copy of the checkout that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder, "checkout")
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
        shutil.copytree(root, copy, symlinks=True, ignore=ignored)
        for name in (".ci", ".gitignore", ".dockerignore", *SHARED):
            if (root / name).exists() and not (copy / name).exists():
                (copy / name).symlink_to((root / name).resolve())
        yield copy


class Verdict(NamedTuple):
    """What a run of tests came to, as pytest counts it."""

    failed: int
    errors: int
    skipped: int
    passed: int
    output: str
    """The last lines of its output."""


def run_tests(copy: Path, tests: Sequence[str], *, keep_bytecode: bool = False) -> Verdict:
    """Run these tests in a copy. Raises subprocess.TimeoutExpired.

    `keep_bytecode`: the copy is unchanged, so what is compiled now serves later runs.
    """
    report = copy.parent / "report.xml"
    report.unlink(missing_ok=True)
    flags = ["-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
    found = subprocess.run(  # noqa: S603 - our own interpreter, and tests of our own
        [sys.executable, "-m", "pytest", *flags, *tests],
        cwd=copy,
        env=_environment(copy, keep_bytecode=keep_bytecode),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TEST_S_MAX * max(1, len(tests)),
        check=False,
    )
    output = "\n".join(found.stdout.splitlines()[-15:])
    if not report.exists():
        return Verdict(0, 1, 0, 0, output)
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it
    counts = [
        [int(s.get(n, 0)) for n in ("failures", "errors", "skipped", "tests")] for s in suites
    ]
    failed, errors, skipped, tests_run = map(sum, zip(*counts, strict=True))
    return Verdict(failed, errors, skipped, tests_run - failed - errors - skipped, output)


def _environment(copy: Path, *, keep_bytecode: bool) -> dict[str, str]:
    """Return the environment for pytest: the copy comes first, and no outer pytest interferes.

    With CI set, Hypothesis chooses the same examples on each run, and a skipped test fails.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    kept["CI"] = "1"
    kept.setdefault("EVENTSTREAMS_TEST_EXAMPLES", "100")  # some mutants show only in rare examples
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    once = {} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, "PYTHONPATH": str(copy), **once}


def try_mutant(copy: Path, mutant: Mutant) -> Result:
    """Apply it to the copy, run its test, and take the change back."""
    began = time.monotonic()
    file = copy / mutant.file
    text, modified_s = file.read_text(), file.stat().st_mtime
    file.write_text(mutant.applied(text))
    os.utime(file, (modified_s + 100,) * 2)  # Python compiles the file anew
    try:
        verdict = run_tests(copy, [mutant.test])
    except subprocess.TimeoutExpired:
        killed, summary = False, f"its test did not end within {TEST_S_MAX} s"
    else:
        killed = verdict.failed > 0 and not verdict.errors
        summary = "killed" if killed else f"SURVIVED: {_why_not(verdict)}"
    finally:
        file.write_text(text)
        os.utime(file, (modified_s,) * 2)
    return Result(mutant, killed, summary, time.monotonic() - began)


def _why_not(verdict: Verdict) -> str:
    if verdict.errors:
        return f"its test did not run\n{verdict.output}"
    return "its test was skipped" if verdict.skipped and not verdict.passed else "its test passes"


def check_tests(copy: Path, mutants: Sequence[Mutant]) -> str:
    """Run the named tests without a mutant; return what is wrong, or an empty text."""
    tests = sorted({mutant.test for mutant in mutants})
    verdict = run_tests(copy, tests, keep_bytecode=True)
    if verdict.failed or verdict.errors:
        return f"the tests must pass before the code is changed:\n{verdict.output}"
    print(f"{len(tests)} tests pass on the unchanged code", flush=True)
    return ""


def run(root: Path, mutants: Sequence[Mutant], jobs: int) -> int:
    """Try them all; return the exit status."""
    with ExitStack() as stack:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        first = stack.enter_context(copy_of(root))
        if wrong := check_tests(first, mutants):
            print(wrong, file=sys.stderr)
            return 2
        copies.put(first)
        for _ in range(min(jobs, len(mutants)) - 1):
            copies.put(stack.enter_context(copy_of(root)))

        def one(mutant: Mutant) -> Result:
            copy = copies.get()
            try:
                return try_mutant(copy, mutant)
            finally:
                copies.put(copy)

        survived: list[Result] = []
        with ThreadPoolExecutor(jobs) as pool:
            for number, result in enumerate(pool.map(one, mutants), 1):
                place = f"{number:{len(str(len(mutants)))}}/{len(mutants)}"
                name, summary, seconds = result.mutant.name, result.summary, result.seconds
                print(f"[{place}] {name}: {summary} ({seconds:.1f} s)", flush=True)
                if not result.killed:
                    survived.append(result)
    print(f"{len(mutants) - len(survived)} of {len(mutants)} mutants were killed")
    for result in survived:
        name, test, why = result.mutant.name, result.mutant.test, result.mutant.why
        print(f"not killed: {FOLDER / name}.patch by {test}\n  {why}")
    return 1 if survived else 0


def positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    description, _, status = (__doc__ or "").partition("\nExit status: ")
    parser = argparse.ArgumentParser(
        prog="scripts/mutants",
        description=description,
        epilog=f"Exit status: {status}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name, number or pattern")
    parser.add_argument("--list", action="store_true", help="show the mutants and try none")
    parser.add_argument("--sample", type=positive, metavar="N", help="try N of them, by chance")
    parser.add_argument("--seed", default="", help="text that chooses the same sample every time")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="N at a time")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; this one, if absent")
    given = parser.parse_args(arguments)
    root = given.root.resolve()
    try:
        mutants = chosen(load(root), given.names)
    except BadPatch as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.sample is not None and given.sample < len(mutants):
        chance = random.Random(given.seed or None)  # noqa: S311 - a sample, no secret
        mutants = sorted(chance.sample(mutants, given.sample))
    if given.list:
        for mutant in mutants:
            print(f"{mutant.name}\n  {mutant.file}\n  {mutant.test}\n  {mutant.why}")
        return 0
    if not mutants:
        print(f"error: {root / FOLDER} holds no mutant", file=sys.stderr)
        return 1
    return run(root, mutants, given.jobs)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
