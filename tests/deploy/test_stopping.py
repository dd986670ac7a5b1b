"""A real process stops as docs/deployment.md says, and the files that the page names exist."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.support.client import connected
from tests.support.gateway import Site, ask
from tests.support.process import configured, exit_status, serving, streaming
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio
DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
STREAMS = 20


async def test_a_stop_proceeds_as_documented(embedded: Site, tmp_path: Path) -> None:
    topic = await embedded.topic()
    config = configured(tmp_path, embedded, topic, fanout={"drain_s": 8.0})
    async with serving(config) as (process, port), AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(port)) for _ in range(STREAMS)]
        kept = await stack.enter_async_context(connected(port))
        async with asyncio.timeout(PATIENCE_S):
            while not (await ask(kept, "GET", "/readyz")).json()["ready"]:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert await kept.some(1) == b"", "an idle connection is closed"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        ended: list[int] = []

        async def end(number: int) -> None:
            *_, last = await streams[number].rest()
            assert last.startswith(b"retry: ")
            ended.append(number)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as ends:
            for number in range(STREAMS):
                ends.create_task(end(number))
        assert sorted(ended) == list(range(STREAMS))
        assert await exit_status(process) == 0


async def test_during_the_notice_clients_are_accepted(embedded: Site, tmp_path: Path) -> None:
    topic = await embedded.topic()
    fanout = {"drain_s": 1.0, "drain_notice_s": 3600.0}
    config = configured(tmp_path, embedded, topic, fanout=fanout)
    async with serving(config) as (process, port), streaming(port) as before:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # An idle connection is closed at the signal, perhaps during a request.
                with suppress(ConnectionError, EOFError):
                    async with connected(port) as client:
                        ready = await ask(client, "GET", "/readyz")
                    if ready.json()["draining"]:
                        break
        assert ready.status == 503
        async with streaming(port) as after:
            await embedded.produce(topic, {"n": 1})
            for stream in (before, after):
                assert (await stream.frame()).document["n"] == 1
        process.send_signal(signal.SIGTERM)  # a second signal: it waits no longer
        assert await exit_status(process) == 0


def test_every_file_named_by_the_document_exists() -> None:
    text = DOCUMENT.read_text()
    linked = re.findall(r"\]\((\.\./[^)]+)\)", text)
    named = re.findall(r"`((?:config|requirements|scripts)/[\w./-]*)`", text)
    assert len(linked) > 5
    assert len(named) > 3
    for path in linked:
        assert (DOCUMENT.parent / path).exists(), path
    for path in named:
        assert (DOCUMENT.parents[1] / path).exists(), path
