"""The Dockerfile is executed in a Debian root, and its result runs like a container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import eventstreams
from tests.deploy.context import Context
from tests.deploy.dockerfile import DockerfileError, parse
from tests.support.programs import needed

TOP = Path(__file__).parents[2]
SCRIPT_TIMEOUT_S = 600.0


def test_the_image_is_built_runs_and_stops() -> None:
    if os.getuid() != 0 and not os.environ.get("CI"):
        pytest.skip("root is needed for chroot and mounts: sudo scripts/container-check")
    needed("mmdebstrap")
    done = subprocess.run(
        [TOP / "scripts" / "container-check"],
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    stages = parse((TOP / "Dockerfile").read_text())
    for step in (step for stage in stages for step in stage.steps):
        assert f"    {step}\n" in done.stderr
    assert done.stderr.endswith("all is as it should be\n")


def test_the_image_has_labels_and_an_unprivileged_user() -> None:
    build, image = parse((TOP / "Dockerfile").read_text())
    assert build.base == image.base
    assert image.labels["org.opencontainers.image.version"] == eventstreams.__version__
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert image.user == "10001:10001"
    assert image.volumes == ["/data"]
    assert image.ports == [8092]
    assert image.stop_signal == "SIGTERM"
    assert image.health_options.keys() == {"interval", "timeout", "start-period"}


def test_everything_is_installed_with_hashes() -> None:
    for step in parse((TOP / "Dockerfile").read_text())[0].steps:
        for command in step.value.split("&&") if step.keyword == "RUN" else ():
            if " install " in command:
                assert "--require-hashes" in command or "--no-deps /wheels/" in command, command
            assert "pip wheel" not in command or "--no-build-isolation" in command, command


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("RUN true", 1),
        ("FROM a\nADD x /x", 2),
        ("FROM a\n\n# more\nSHELL ['sh']", 4),
        ("FROM a\nRUN --mount=type=cache,target=/x true", 2),
        ('FROM a\nRUN ["true"]', 2),
        ("FROM a\nCOPY --chown=1 x /x", 2),
        ("FROM a\nENTRYPOINT eventstreams", 2),
        ("FROM a\nHEALTHCHECK NONE", 2),
        ("FROM a\nUSER root", 2),
        ("FROM a\nUSER 0:0", 2),
        ("FROM a\nUSER 1:1\nRUN true", 3),
        ("FROM a\nVOLUME [ '/x' ]", 2),
        ("FROM a\nENV A", 2),
        ("FROM --platform=x a", 1),
        ("FROM a\nRUN true \\", 2),
    ],
)
def test_unknown_instructions_are_refused_with_their_line(text: str, line: int) -> None:
    with pytest.raises(DockerfileError, match=f"^line {line}: "):
        parse(text)


def test_steps_have_their_directory_and_environment() -> None:
    text = """FROM base AS one
        WORKDIR /src
        RUN first && \\
            # a comment between
            second
        ENV A=1 PATH=/app:$PATH
        COPY --from=zero /a /b
        FROM other
        RUN third
    """
    one, other = parse(text)
    _, run, copy = one.steps
    assert (run.value, run.directory, "A" in run.environment) == ("first && second", "/src", False)
    assert (copy.value, copy.from_stage, copy.environment["A"]) == ("/a /b", "zero", "1")
    assert copy.environment["PATH"].startswith("/app:/usr/")
    assert (other.steps[0].directory, "A" in other.steps[0].environment) == ("/", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("a/one.py", "a/__pycache__/one.pyc", "a/deep/two.py", "b/three", "secret", "c.y"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "a/link").symlink_to("one.py")
    (tmp_path / ".dockerignore").write_text("# none\n*\n!a\n!b/three\n!*.y\n**/__pycache__\n")
    return tmp_path


def test_dockerignore_limits_what_is_copied(folder: Path) -> None:
    target = folder / "target"
    context = Context(folder)
    assert context.copy(["a"], target, into=False) == 3
    assert {path.relative_to(target).as_posix() for path in target.rglob("*")} == {
        "one.py",
        "link",
        "deep",
        "deep/two.py",
    }
    assert (target / "link").is_symlink()
    assert context.copy(["b/three", "c.y"], folder / "both", into=True) == 2
    for source in ("secret", "b/four", "a/__pycache__"):
        with pytest.raises(FileNotFoundError, match=source):
            context.copy([source], target, into=False)


def test_the_image_contains_only_what_it_needs() -> None:
    allows = Context(TOP).allows
    needed = ("eventstreams/web/app.py", "static/live.js", "config/schemas/error/latest.yaml")
    assert all(map(allows, (*needed, "config/streams.yaml", "requirements/build.txt")))
    others = (
        ".git/config",
        "tests/support/wire.py",
        "data/log.sqlite3",
        "config/systemd/x",
        ".venv/x",
    )
    assert not any(map(allows, (*others, "eventstreams/__pycache__/x.pyc", "requirements/dev.txt")))
