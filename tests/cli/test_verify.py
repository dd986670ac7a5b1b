"""`verify` as a process of its own, as its users run it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from tests.support.process import kill, logged, started
from tests.support.tcp_server import tcp_server
from tests.verify.stub import Stub, serving

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parents[2] / "config"
PATIENCE_S = 600.0


async def verify(*arguments: str) -> tuple[int, str, str]:
    """Its exit code, and what it prints."""
    command = (sys.executable, "-m", "eventstreams", "verify", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def test_a_fresh_gateway_passes_and_is_stopped_at_the_end(tmp_path: Path) -> None:
    """Its settings are those that are shipped, with heartbeats that need less waiting."""
    shutil.copytree(CONFIG, tmp_path / "config", symlinks=True)
    settings = tmp_path / "config" / "eventstreams.yaml"
    text = settings.read_text()
    assert "heartbeat_s: 15 " in text
    settings.write_text(text.replace("heartbeat_s: 15 ", "heartbeat_s: 2 "))
    where = ("--config", str(settings), "--data-dir", str(tmp_path / "data"))
    process = await started("--port", "0", "--no-demo", *where)
    try:
        url = (await logged(process, "listening"))["url"].removesuffix("/")
        options = ("--streams", "eventstreams.test,page-create", "--produce", "--pause", "0")
        drain = ("--drain-pid", str(process.pid))
        code, stdout, stderr = await verify(url, *options, *drain, "--json")
        document = json.loads(stdout)
        failed = [check for check in document["checks"] if check["outcome"] == "fail"]
        assert (code, failed, stderr) == (0, [], "")
        outcomes = {check["name"]: check["outcome"] for check in document["checks"]}
        assert outcomes["drain.retry"] == "differs"
        assert outcomes["live.prompt"] == "pass"
        assert document["streams"] == ["eventstreams.test", "page-create"]
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    finally:
        await kill(process)


async def test_a_failed_check_is_explained_with_exit_code_1() -> None:
    async with serving(Stub("no Vary")) as port:
        url = f"http://127.0.0.1:{port}/v2/stream/one"
        code, stdout, stderr = await verify(url, "--only", "http.vary", "--only", "http.chunked")
    assert (code, stderr) == (1, "")
    lines = [line.strip() for line in stdout.splitlines()]
    assert lines[0].split()[:2] == ["FAIL", "http.vary"] or "FAIL" in stdout
    assert any(line.startswith("Why: A cache in between could answer") for line in lines)
    assert lines[-1].startswith("1 passed, 0 differ from EventStreams deliberately, 1 failed")


async def test_verify_without_streams_lists_them() -> None:
    async with serving(Stub()) as port:
        code, _, stderr = await verify(f"http://127.0.0.1:{port}")
    assert code == 2
    assert "Name the streams to check with --streams. This gateway has: one, two." in stderr


async def test_streams_that_are_refused_end_it_with_the_answer() -> None:
    async with serving(Stub()) as port:
        code, stdout, stderr = await verify(f"http://127.0.0.1:{port}/v2/stream/nope")
    assert (code, stdout) == (1, "")
    assert "GET /v2/stream/nope is refused, so nothing can be checked: 400 " in stderr
    assert "400 not_found: Invalid streams: nope\n" in stderr


async def test_a_gateway_that_does_not_take_test_events_is_named() -> None:
    async with serving(Stub()) as port:
        url = f"http://127.0.0.1:{port}"
        code, _, stderr = await verify(url, "--streams", "one", "--produce", "--only", "live")
    assert code == 1
    assert f"{url}/v1/events does not accept the test events" in stderr


async def test_an_unreachable_gateway_is_reported_in_one_line() -> None:
    code, _, stderr = await verify("http://127.0.0.1:9", "--streams", "one")
    assert code == 1
    assert stderr == "Error: no connection to 127.0.0.1:9: Connection refused\n"


async def test_an_interrupt_ends_verify_without_a_traceback() -> None:
    stub = Stub("no heartbeat")
    async with serving(stub) as port:
        url = f"http://127.0.0.1:{port}/v2/stream/one"
        command = (sys.executable, "-m", "eventstreams", "verify", url, "--only", "live.heartbeat")
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        async with asyncio.timeout(PATIENCE_S):
            await stub.opened.wait()
            process.send_signal(signal.SIGINT)
            _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'URL'"),
        (["ftp://x"], "not an http or https URL"),
        (["http://x:port"], "is not a URL"),
        (["http://x/?a=b"], "has a query or a fragment"),
        (["http://me:secret@x/"], "the URL of x has a user name; use --header"),
        (["http://x", "--contact", "é"], "--contact: 'é' is not printable ASCII"),
        (["http://x", "--only", "nothing"], "'nothing' is not a check; the groups are"),
        (["http://x", "--header", "nonsense"], "is not a header of the form 'NAME: VALUE'"),
        (["http://x", "--time", "0"], "--time"),
        (["http://x", "--cacert", "/nowhere"], "--cacert"),
        (["http://x", "--produce-event", "/nowhere"], "--produce-event"),
        (["http://x", "--drain-command", "'"], "--drain-command"),
        (["http://x", "--drain-pid", "5", "--drain-command", "x"], "not both"),
    ],
)
def test_wrong_usage_is_reported_with_exit_code_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["verify", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_the_list_explains_every_check() -> None:
    result = CliRunner().invoke(main, ["verify", "--list"])
    assert result.exit_code == 0
    assert "drain.retry: The last line of a stopped stream is `retry:`" in result.output
    assert "    EventStreams: There is no `retry:`." in result.output


async def test_a_server_that_never_answers_does_not_pass() -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(hang) as port:
        url = f"http://127.0.0.1:{port}"
        code, stdout, stderr = await verify(url, "--streams", "one", "--time", "1")
    assert (code, stderr) == (1, "Error: nothing of this gateway could be checked\n")
    assert "the time for the run is over" in stdout
