"""The wheel: its files and metadata, and that pip and uv install a gateway from it."""

from __future__ import annotations

import contextlib
import email
import email.message
import json
import os
import queue
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trove_classifiers
from readme_renderer import markdown

import eventstreams

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
START_S = 120.0
"""How long a busy machine may take to start a gateway, the installation included."""
ONE_EVENT = "/v2/stream/recentchange?since=earliest&limit=1&max_seconds=60"
FILTERED = f"{ONE_EVENT}&filter=event.synthetic"
UV = (sys.executable, "-m", "uv", "--no-config")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    _run(*command, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_contains_settings_schemas_and_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    settings = {f"config/{name}.yaml" for name in ("eventstreams", "kafka", "streams")}
    schemas = _files("config/schemas")
    pages = _files("static")
    assert len(schemas) > 5
    assert "static/index.html" in pages
    assert {f"eventstreams/{name}" for name in settings | schemas | pages} <= held
    assert {"eventstreams/py.typed", "eventstreams/web/openapi.yaml"} <= held
    package = {name for name in _files("eventstreams") if name.endswith(".py")}
    assert {name for name in held if name.endswith(".py")} == package


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0].partition("-")[0] for name in archive.namelist()}
    assert tops == {"eventstreams"}


def test_classifiers_are_known_and_agree_with_requires_python(
    metadata: email.message.Message,
) -> None:
    classifiers = metadata.get_all("Classifier") or []
    assert set(classifiers) <= trove_classifiers.classifiers
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(int(c.removeprefix(prefix)) for c in classifiers if c.startswith(prefix))
    assert minors == [11, 12, 13, 14]
    assert metadata["Requires-Python"] == f">=3.{minors[0]}"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in classifiers


def test_a_package_index_shows_the_whole_readme(metadata: email.message.Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes)
    text = payload.decode()
    shown = markdown.render(text)
    assert shown is not None
    targets = re.findall(r'(?:href|src)="([^"]*)"', shown)
    assert targets
    assert [target for target in targets if not re.match("https?://|#", target)] == []
    assert "](" not in re.sub(r"<pre.*?</pre>", "", shown, flags=re.DOTALL)
    headings = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert re.findall(r"<h2[^>]*>([^<]*)", shown) == headings
    # HTML in Markdown would be shown as text or stripped, which is right only for comments.
    prose = re.sub(r"```.*?```|`[^`\n]*`|<!--.*?-->", "", text, flags=re.DOTALL)
    assert re.findall(r"<(?!https?://)[^>\n]+>", prose) == []


def test_pip_installs_a_gateway_that_serves(wheel: Path, tmp_path: Path) -> None:
    environment = _environment(tmp_path)
    _lay_out(tmp_path, wheel)
    made, *installing, served = _documented("Or install it with pip into a virtual environment:")
    assert (made, served) == ("python3 -m venv venv", "venv/bin/eventstreams serve")
    _run("bash", "-ec", "\n".join(installing), cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = "import eventstreams; print(eventstreams.__file__)"
    said = _run(str(environment / "python"), "-c", code, cwd=empty)
    assert Path(said.strip()).is_relative_to(environment.parent)
    with _serving(empty, str(environment / "eventstreams")) as url:
        _serves(url)
        assert httpx.get(url + FILTERED, timeout=START_S).status_code == 200
    assert [entry.name for entry in empty.iterdir()] == ["data"]


def test_pip_installs_without_filters_as_documented(wheel: Path, tmp_path: Path) -> None:
    environment = _environment(tmp_path, "cel_expr_python")
    refused = subprocess.run(
        (environment / "pip", "install", wheel),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No matching distribution found for cel-expr-python" in refused.stderr
    _lay_out(tmp_path, wheel)
    _run("bash", "-ec", "\n".join(_documented("With pip:")), cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with _serving(empty, str(environment / "eventstreams")) as url:
        refusal = httpx.get(url + FILTERED, timeout=START_S)
        assert (refusal.status_code, refusal.json()["type"]) == (501, "filters_unavailable")


def test_uv_runs_a_gateway_that_serves(wheel: Path, tmp_path: Path) -> None:
    run = (*UV, "tool", "run", "--python", sys.executable, "--from", str(wheel))
    command = (*run, "--constraints", str(ROOT / "requirements" / "runtime.txt"), "eventstreams")
    done = _with_index(*command, "--version")
    assert done.returncode == 0, done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    with _serving(empty, *command) as url:
        _serves(url)
    assert [entry.name for entry in empty.iterdir()] == ["data"]


def test_uv_resolves_all_but_filters_for_musl(wheel: Path, tmp_path: Path) -> None:
    command = (
        *(*UV, "pip", "install", "--dry-run", "--target", str(tmp_path / "none"), str(wheel)),
        *("--python", sys.executable, "--python-platform", "x86_64-unknown-linux-musl"),
        # The only dependency without a wheel for musl, which has a source distribution.
        *("--only-binary", ":all:", "--no-binary", "aiokafka"),
    )
    everything = _with_index(*command)
    assert everything.returncode != 0
    assert "cel-expr-python" in everything.stderr
    written, installed = _documented("With uv:")
    _run("bash", "-ec", written, cwd=tmp_path)
    assert installed.startswith("uv tool install --overrides no-filters.txt ")
    without = _with_index(*command, "--overrides", str(tmp_path / "no-filters.txt"))
    assert without.returncode == 0, without.stderr
    assert " + jsonschema-rs==" in without.stderr
    assert "cel-expr-python" not in without.stderr


def _documented(introduction: str) -> list[str]:
    """Return the commands that follow this line in docs/deployment.md."""
    text = (ROOT / "docs/deployment.md").read_text()
    found = re.search(rf"{introduction}\n\n<!-- [^\n]* -->\n```sh\n(.*?)\n```", text, re.DOTALL)
    assert found is not None
    named = found[1].replace("eventstreams-0.1.0-", f"eventstreams-{eventstreams.__version__}-")
    return named.splitlines()


def _lay_out(folder: Path, wheel: Path) -> None:
    """Provide the files that the documented commands expect in their folder."""
    (folder / "venv").symlink_to(folder / "environment")
    (folder / "dist").symlink_to(wheel.parent)
    (folder / "requirements").symlink_to(ROOT / "requirements")


def _environment(folder: Path, *missing: str) -> Path:
    """Make a new environment; return its folder of programs, which include pip.

    Its dependencies are the locked ones that are installed for the tests, without those whose files
    start with `missing`. Its pip has no index.
    """
    environment = folder / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    programs = environment / "bin"
    own = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (own / "dependencies.pth").write_text(str(_dependencies(folder, missing)))
    pip = programs / "pip"
    pip.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{programs / "python"}" '
        '--disable-pip-version-check "$@" --no-index\n'
    )
    pip.chmod(0o755)
    return programs


def _dependencies(folder: Path, missing: tuple[str, ...]) -> Path:
    """Copy the packages that are installed for the tests, except our own."""
    linked = folder / "dependencies"
    linked.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            left_out = "eventstreams" in entry.name or entry.name.startswith(missing)
            if not left_out and entry.suffix != ".pth":
                (linked / entry.name).symlink_to(entry)
    return linked


def _with_index(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that needs a package index. Without one, skip the test, or fail in CI."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr or "Failed to fetch" in done.stderr:
        message = f"no package index is within reach: {done.stderr}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return done


def _serves(url: str) -> None:
    """Get the live page with its assets, one event and the schemas; post an event."""
    with httpx.Client(base_url=url, timeout=START_S) as client:
        page = client.get("/v2/ui/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assets = re.findall(r'"(/v2/ui/[\w.-]+)"', page.text)
        assert len(assets) > 2
        for asset in assets:
            assert client.get(asset).status_code == 200
        body = client.get(ONE_EVENT, headers={"Accept": "application/json"}, timeout=START_S).text
        # Empty lines are heartbeats.
        assert [json.loads(line)["synthetic"] for line in body.splitlines() if line] == [True]
        assert "/test/event/1.0.0" in client.get("/v1/schemas").json()
        event = {"$schema": "/test/event/1.0.0", "meta": {"stream": "eventstreams.test"}}
        assert client.post("/v1/events", json=event | {"test": "hello"}).status_code == 201


@contextlib.contextmanager
def _serving(folder: Path, *eventstreams: str) -> Iterator[str]:
    """Return a gateway's URL."""
    process = subprocess.Popen(
        (*eventstreams, "serve", "--port", "0"),
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    reading = threading.Thread(target=_read, args=(process, lines))
    reading.start()
    try:
        yield _listening(lines)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(START_S) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reading.join()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stderr is not None
    with process.stderr as stderr:
        for line in stderr:
            lines.put(line)
    lines.put("")


def _listening(lines: queue.Queue[str]) -> str:
    said = []
    while line := lines.get(timeout=START_S):
        said.append(line)
        if line.startswith("{") and (record := json.loads(line))["message"] == "listening":
            url: str = record["url"]
            return url
    pytest.fail(f"it ended without listening: {said}")


def _files(folder: str) -> set[str]:
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
