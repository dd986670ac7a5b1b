"""Relays in settings and on the command line: mistakes are reported, and valid relays run."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from eventstreams.cli import main
from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Partition
from tests.relay.scripted import OK, entry, frame, upstream

pytestmark = pytest.mark.anyio

PATIENCE_S = 60.0
STREAM = "mediawiki.recentchange"
TOPIC = f"eqiad.{STREAM}"


def change(offset: int) -> bytes:
    meta = {"stream": STREAM, "topic": TOPIC, "partition": 0, "offset": offset}
    data = json.dumps({"meta": meta, "title": f"T{offset}"}).encode()
    return frame(data, [entry(TOPIC, offset=offset + 1, timestamp=1_700_000_000_000)])


async def run(*arguments: object) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventstreams", *map(str, arguments), stderr=PIPE, stdout=PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, error = await process.communicate()
    return process.returncode, (out + error).decode()


async def appended(data: Path, count: int) -> None:
    """Wait until the log has this many events."""
    log = SqliteLog(directory=data, settings=SqliteSettings())
    await log.start()
    async with asyncio.timeout(PATIENCE_S):
        while (await log.bounds([Partition(TOPIC, 0)]))[Partition(TOPIC, 0)].end < count:
            await asyncio.sleep(0.01)
    await log.aclose()


async def test_check_reports_every_mistake_in_relays(tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text("streams: {a: {topics: [a]}}")
    relays = {
        "one": {"url": "gateway.example.org", "streams": ["a"]},
        "two": {"url": "https://x.org", "streams": {"theirs": "nope"}, "since": "soon"},
        "three": {"url": "https://x.org/v2/stream/a", "token_file": str(tmp_path / "none")},
    }
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump({"relays": relays, "only": "gateway"}))
    status, said = await run("check", "--config", config)
    assert status == 2
    for problem in (
        "relays.one.url: 'gateway.example.org' is not an http or https URL",
        "relays.two.since: 'soon' is not a time",
        "relays.two.streams: nope is not in the catalogue",
        "relays.three.token_file:",
    ):
        assert problem in said, said
    config.write_text("relays: {'a b': {url: 'https://x.org/v2/stream/a'}}")
    assert "relays" in (await run("check", "--config", config))[1]


async def test_relays_on_kafka_require_read_committed(tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text("streams: {a: {topics: [a]}}")
    kafka = {"bootstrap_servers": ["localhost:9092"], "isolation_level": "read_uncommitted"}
    settings = {
        "relays": {"r": {"url": "https://x.org/v2/stream/a"}},
        "log": {"backend": "kafka", "kafka": kafka},
        "only": "gateway",
    }
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert "relays need read_committed" in (await run("check", "--config", config))[1]


async def test_the_command_continues_where_it_ended(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with upstream(OK + change(0) + change(1), OK) as up:
        for offset in (2, 3):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "eventstreams", "relay"),
                *(f"{up.url}/v2/stream/recentchange", "--data-dir", str(data), "--contact", "me"),
                stderr=PIPE,
            )
            if offset == 2:
                assert (await up.request()).last_event_id is None
            request = await up.request()
            assert request.last_event_id[0]["offset"] == offset
            assert request.headers["user-agent"].endswith("(me)")
            await up.send(change(offset))
            await appended(data, offset + 1)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                _, error = await process.communicate()
            assert process.returncode == 0, error
            assert b"Traceback" not in error
            assert error.endswith(
                b"appended %d event%s\n" % ((3, b"s") if offset == 2 else (1, b""))
            )


async def test_the_command_fails_after_a_permanent_error(tmp_path: Path) -> None:
    refusal = b'{"title":"Stream Not Found","detail":"Invalid streams: recentchange"}'
    no = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(refusal) + refusal
    async with upstream(no, no) as up:
        options = ("--streams", "recentchange", "--data-dir", tmp_path / "data")
        status, said = await run("relay", up.url, *options)
        assert status == 1
        assert "400 Stream Not Found: Invalid streams: recentchange" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument 'URL'"),
        (("gateway.example.org",), "URL: 'gateway.example.org' is not an http or https URL"),
        (("http://h",), "URL: 'http://h' names no stream; expected a URL such as http://h/v2/"),
        (("http://h/v2/stream/x",), "Error: URL: x is not in the catalogue (--streams NAME=OURS"),
        (("http://h", "--streams", "a,a"), "--streams names a twice"),
        (("http://h", "--streams", "=b"), "--streams: '=b' is neither NAME nor NAME=OURS"),
        (
            ("http://h", "--streams", "mediawiki.recentchanges"),
            "--streams: mediawiki.recentchanges is not in the catalogue; "
            "did you mean mediawiki.recentchange?",
        ),
        (("http://h/v2/stream/test", "--since", "soon"), "--since: 'soon' is not a time"),
        (("http://h/v2/stream/test", "--name", "a b"), "--name: 'a b' is not 1 to 100 of the"),
        (
            ("http://h/v2/stream/test", "--contact", "a\nb"),
            "--contact: 'a\\nb' contains a character",
        ),
        (("http://h/v2/stream/test", "--token-file", "none"), "--token-file: none: the file does"),
        (("http://h/v2/stream/test", "--kafka", "b"), "--kafka: 'b' is not HOST:PORT"),
        (("http://h/v2/stream/test", "--config", "none.yaml"), "none.yaml"),
    ],
)
def test_wrong_usage_names_the_option(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, ["relay", *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr


async def test_serve_relays_instead_of_the_demo_feed(tmp_path: Path) -> None:
    async with upstream(OK + change(0)) as up:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eventstreams", "serve", "--port", "0"),
            *("--data-dir", str(tmp_path), "--relay", f"{up.url}/v2/stream/recentchange"),
            stderr=PIPE,
        )
        assert process.stderr is not None
        url = None
        async with asyncio.timeout(PATIENCE_S):
            while url is None:
                url = json.loads(await process.stderr.readline()).get("url")
        await up.request()
        status, said = await run(
            "tail", f"{url}/v2/stream/recentchange", "--since", "1", "-n", "1", "--json"
        )
        assert status == 0
        assert json.loads(said)["title"] == "T0"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate()
        assert process.returncode == 0
