"""The scripts announce what they install or lack, and installing can be forbidden.

They run in a copy of the checkout, with programs on their PATH that print their arguments.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PRESENT = (
    *(
        "awk",
        "bash",
        "cat",
        "chmod",
        "cp",
        "dirname",
        "env",
        "flock",
        "grep",
        "head",
        "mkdir",
        "mv",
    ),
    *("rm", "sed", "sleep", "tail", "tr"),
)
"""Programs that every system has; all others are missing in these tests."""
CALLED = """#!/bin/sh
echo "called: {name} $*" >&2
"""


class Checkout:
    """Make a copy with an up-to-date environment, and a folder that is its whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "checkout"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "scripts", self.top / "scripts")
        shutil.copytree(ROOT / "requirements", self.top / "requirements")
        shutil.copy(ROOT / "pyproject.toml", self.top)
        made_from = (self.top / "requirements/dev.txt", self.top / "pyproject.toml")
        key = hashlib.sha256(b"".join(file.read_bytes() for file in made_from)).hexdigest()
        (self.top / ".venv/bin").mkdir(parents=True)
        (self.top / ".venv/.made-from").write_text(f"dev {key}\n")
        self.bin.mkdir()
        for name in PRESENT:
            found = shutil.which(name)
            assert found is not None, name
            (self.bin / name).symlink_to(found)
        # Making an environment for the clients takes seconds, and then lacks their requirements.
        _program(
            self.bin / "python3",
            f'#!/bin/sh\n[ "$1 $2" != "-m venv" ] || exit 1\nexec "{sys.executable}" "$@"\n',
        )
        _program(self.bin / "id", "#!/bin/sh\necho 0\n")
        for name in ("apt-get", "apt-cache", "npm", "mvn"):
            _program(self.bin / name, CALLED.format(name=name))
        _program(
            self.top / ".venv/bin/python",
            CALLED.format(name="tests") + 'echo "CI=${CI-unset}" >&2\n',
        )

    def without(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.top,
            env={"PATH": str(self.bin), "HOME": str(self.top), "CI": "true", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        done.stderr = done.stderr.replace("\033[1m", "").replace("\033[0m", "")
        return done


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_system_packages_are_announced_with_the_reason(checkout: Checkout) -> None:
    done = checkout.run("scripts/test", "-k", "position")
    lines = done.stderr.splitlines()
    named = next(line for line in lines if "installing" in line and "chromium" in line)
    assert named.startswith("==> some tests need them: installing ")
    installs = [i for i, line in enumerate(lines) if "apt-get install" in line]
    assert lines.index(named) < installs[0]
    for package in ("curl", "chromium", "caddy"):
        assert package in named
        assert package in lines[installs[0]]


def test_no_install_runs_tests_and_lists_what_is_missing(checkout: Checkout) -> None:
    done = checkout.run("scripts/test", "--no-install", "-k", "position")
    assert done.returncode == 0
    said, *rest = done.stderr.splitlines()
    assert said.startswith("==> nothing is installed; tests that need these are skipped: curl, ")
    for missing in ("chromium", "caddy", "Java 17", "Kafka (scripts/kafka fetch)", "npm"):
        assert missing in said
    assert rest == [
        "==> running the tests",
        "called: tests -m pytest -n 4 --dist loadfile --no-loadscope-reorder -k position",
        "CI=unset",
    ]


def test_available_programs_are_not_listed_as_missing(checkout: Checkout) -> None:
    _program(checkout.bin / "curl", CALLED.format(name="curl"))
    _program(checkout.bin / "java", "#!/bin/sh\necho 'openjdk version \"21.0.2\"' >&2\n")
    (checkout.top / ".kafka/jars-4.1.1").mkdir(parents=True)
    said = checkout.run("scripts/test", "--no-install").stderr.splitlines()[0]
    named = said.partition("skipped: ")[2].split(", ")
    assert "chromium" in named
    assert {"curl", "Java 17", "Kafka (scripts/kafka fetch)"} & set(named) == set()


def test_tests_without_kafka_install_nothing(checkout: Checkout) -> None:
    done = checkout.run("scripts/test", "-m", "not kafka")
    assert done.returncode == 0
    calls = [line for line in done.stderr.splitlines() if line.startswith("called: ")]
    assert calls == [
        "called: tests -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m not kafka"
    ]


@pytest.mark.parametrize("missing", ["java", "mvn", "jars"])
def test_kafka_installs_nothing_with_no_install(missing: str, checkout: Checkout) -> None:
    if missing != "java":
        _program(checkout.bin / "java", "#!/bin/sh\necho 'openjdk version \"21.0.2\"' >&2\n")
    if missing != "jars":
        checkout.without("mvn")
    done = checkout.run("scripts/kafka", "start", EVENTSTREAMS_NO_INSTALL="1")
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    assert "nothing may be installed; run: " in said


def test_kafka_announces_what_it_installs(checkout: Checkout) -> None:
    lines = checkout.run("scripts/kafka", "fetch").stderr.splitlines()
    named = "==> Java 17 or newer is needed: installing openjdk-17-jre-headless with apt-get"
    installs = [i for i, line in enumerate(lines) if "called: apt-get install" in line]
    assert lines.index(named) < installs[0]
    assert "openjdk-17-jre-headless" in lines[installs[0]]


_USES_KAFKA = "from tests.support.kafka_node import shared, sharing\nwith sharing():\n    shared()"


def test_a_test_of_kafka_is_skipped_with_the_reason(checkout: Checkout) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _USES_KAFKA],
        cwd=ROOT,
        env={"PATH": str(checkout.bin), "EVENTSTREAMS_NO_INSTALL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Skipped: no Kafka broker: " in done.stderr
    assert "Java 17 or newer is needed, and nothing may be installed" in done.stderr


def test_pythons_lists_failing_and_missing_versions(checkout: Checkout) -> None:
    _program(checkout.top / ".venv/bin/uv", "#!/bin/sh\nexit 1\n")
    done = checkout.run("scripts/pythons")
    assert done.returncode == 1
    supported = [f"3.{minor}" for minor in range(11, 15)]
    here = "{}.{}".format(*sys.version_info)
    missing = " ".join(version for version in supported if version != here)
    said = f"==> passed: none; failed: {here}; not found: {missing}"
    assert done.stderr.splitlines()[-1] == said


def test_pythons_fails_where_no_python_is_found(checkout: Checkout) -> None:
    _program(
        checkout.bin / "python3",
        f'#!/bin/sh\necho "$*" | grep -q "info\\[:2\\]" && exit 1\nexec "{sys.executable}" "$@"\n',
    )
    done = checkout.run("scripts/pythons")
    assert done.returncode == 1
    said = "==> passed: none; failed: none; not found: 3.11 3.12 3.13 3.14"
    assert done.stderr.splitlines()[-1] == said


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
