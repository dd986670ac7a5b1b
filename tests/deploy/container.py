"""Runs the result of tests.deploy.build like a container: `python -m tests.deploy.container WORK`.

User, command, health check and signal are those of the Dockerfile. The root is read-only except for
the volume and /tmp; the process is the first of its namespace and has no capabilities.
scripts/container-check runs it in separate mount and network namespaces.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.build import TOP
from tests.deploy.dockerfile import Stage, parse
from tests.deploy.root import command_in, make_read_only, mount, mount_devices

PATIENCE_S = 60.0
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class Container:
    def __init__(self, image: Stage, root: Path) -> None:
        self._image = image
        self._root = root
        self.url = f"http://127.0.0.1:{image.ports[0]}"

    def command(self, words: list[str]) -> list[str]:
        """Return the command that runs these words in the container."""
        image = self._image
        return command_in(
            self._root,
            words,
            environment=image.environment,
            directory=image.directory,
            user=image.user,
        )

    def status_of(self, words: list[str]) -> int:
        """Return the exit status of another program in the container."""
        command = self.command(words)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False
        )
        return done.returncode

    def is_healthy(self) -> bool:
        return self.status_of(self._image.health) == 0

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Return the entry point and command."""
        words = [*self._image.entrypoint, *self._image.command]
        process = subprocess.Popen(self.command(words), stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Run it, once it has logged that it listens."""
        with self.started() as process:
            assert process.stderr is not None
            for line in process.stderr:
                if json.loads(line)["message"] == "listening":
                    break
            else:
                raise AssertionError(f"it ended with {process.wait()} before it listened")
            yield process


def first_process(unshare: int) -> int:
    """Return the process that is number 1 in the namespace of `unshare`."""
    for _ in _until(PATIENCE_S, "it has no process"):
        for child in Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split():
            return int(child)
    raise AssertionError


def _until(patience_s: float, problem: str) -> Iterator[None]:
    """Wait until a condition holds, by polling."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        yield
        time.sleep(0.001)
    raise AssertionError(problem)


def loopback_up() -> None:
    """Enable the loopback device, which is down in a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def mount_all(image: Stage, root: Path, work: Path) -> None:
    """Mount the root read-only, with /tmp in memory, and volumes with the image's content."""
    make_read_only(root)
    mount_devices(root)
    mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev,noexec", "tmpfs", root / "tmp")
    for number, volume in enumerate(image.volumes):
        its = work / f"volume-{number}"
        subprocess.run(["cp", "-a", root / volume[1:], its], check=True)
        mount("--bind", its, root / volume[1:])


def check(work: Path) -> None:
    """Check the container. Raises AssertionError."""
    loopback_up()
    image = parse((TOP / "Dockerfile").read_text())[-1]
    root = work / "image"
    mount_all(image, root, work)
    container = Container(image, root)
    _is_closed(container, image)
    assert not container.is_healthy(), "healthy while nothing runs"
    _said("the root is read-only, the volume is not, nothing of what builds is left")
    _ends_before_it_serves(container)
    with container.running() as process:
        _runs_as(image, first_process(process.pid))
        assert container.is_healthy(), "the health check fails"
        _said(f"runs as {image.user}, process 1, no capabilities; the health check succeeds")
        _answers(container, root)
        _ends_whole(container, process, signal.Signals[image.stop_signal])
    assert not container.is_healthy(), "healthy after its end"
    with container.running() as process:
        assert _first_event(container, since="earliest") == 0, "the volume does not hold the log"
        _said("started again, it has its log")
    _said("all is as it should be")


def _is_closed(container: Container, image: Stage) -> None:
    for path in ("/probe", "/app/probe", "/etc/probe", "/var/tmp/probe"):
        assert container.status_of(["sh", "-c", f": > {path}"]) != 0, f"{path} can be written"
    for folder in ("/tmp", *image.volumes):
        assert container.status_of(["sh", "-c", f": > {folder}/probe"]) == 0, folder
        container.status_of(["rm", f"{folder}/probe"])
    assert container.status_of(["python", "-c", "import msgspec"]) == 0
    for module in ("pip", "hatchling"):
        assert container.status_of(["python", "-c", f"import {module}"]) != 0, module


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def _ends_before_it_serves(container: Container) -> None:
    """Process 1 gets only signals that it handles, so send the signal as soon as it handles it."""
    bit = 1 << (signal.SIGTERM - 1)
    with container.started() as process:
        pid = first_process(process.pid)
        for _ in _until(PATIENCE_S, "it does not handle SIGTERM"):
            if int(_status(pid)["SigCgt"][0], 16) & bit:
                break
        os.kill(pid, signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        _said("stopped before it serves, it ends")


def _runs_as(image: Stage, pid: int) -> None:
    status = _status(pid)
    uid, _, gid = image.user.partition(":")
    assert set(status["Uid"]) == {uid}
    assert set(status["Gid"]) == {gid}
    assert status["NSpid"][-1] == "1"
    assert int(status["CapEff"][0], 16) == int(status["CapBnd"][0], 16) == 0


def _answers(container: Container, root: Path) -> None:
    """Run with the image's files only; no file of a checkout is visible."""
    with httpx.Client(base_url=container.url, timeout=PATIENCE_S) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        page = client.get("/v2/ui/")
        assert page.status_code == 200
        assert "<html" in page.text
        assert client.get("/v2/ui/live.js").status_code == 200
        assert "mediawiki.recentchange" in client.get("/v2/streams").text
        event = {"$schema": "/test/event/1.0.0", "meta": {"stream": "eventstreams.test"}}
        posted = client.post("/v1/events", json=event)
        assert posted.status_code == 201, posted.text
    _first_event(container)
    assert not (root / "src").exists()
    _said("health, readiness, page, streams, schema, a posted event and one read")


def _first_event(container: Container, **query: str) -> int:
    """Append an event, and return its offset."""
    url = f"{container.url}/v2/stream/mediawiki.recentchange"
    with httpx.stream("GET", url, params=query, timeout=PATIENCE_S) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                return int(json.loads(line[6:])["meta"]["offset"])
    raise AssertionError("the stream ended without an event")


def _ends_whole(
    container: Container, process: subprocess.Popen[str], number: signal.Signals
) -> None:
    url = f"{container.url}/v2/stream/mediawiki.recentchange"
    with httpx.stream("GET", url, timeout=PATIENCE_S) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if line.startswith("data: "))
        os.kill(first_process(process.pid), number)
        *_, last = lines  # raises if the response has no proper end
        assert last.startswith("retry: "), last
    assert process.wait(PATIENCE_S) == 0
    _said(f"{number.name} ends its stream whole and the process with 0")


def _said(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    check(Path(sys.argv[1]))
