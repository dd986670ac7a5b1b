"""What docs/deployment.md says of being told to stop, of a real process; and that it names what is
there.
"""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.web.client import PATIENCE_S, connected
from tests.web.gateway import Site, ask
from tests.web.test_process import configured, exit_status, serving, streaming

pytestmark = pytest.mark.anyio
DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
STREAMS = 20


async def test_a_stop_closes_idle_connections_takes_no_new_ones_and_ends_streams_one_by_one(
    embedded: Site, tmp_path: Path
) -> None:
    topic = await embedded.topic()
    config = configured(tmp_path, embedded, topic, fanout={"drain_s": 3.0})
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


async def test_with_a_notice_it_takes_clients_while_it_is_not_ready_any_more(
    embedded: Site, tmp_path: Path
) -> None:
    topic = await embedded.topic()
    fanout = {"drain_s": 1.0, "drain_notice_s": 3600.0}
    config = configured(tmp_path, embedded, topic, fanout=fanout)
    async with serving(config) as (process, port), streaming(port) as before:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # An idle connection is closed at the signal, perhaps just when it asks.
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
        process.send_signal(signal.SIGTERM)  # in a hurry: it waits no longer
        assert await exit_status(process) == 0


def test_every_file_that_the_document_names_is_there() -> None:
    text = DOCUMENT.read_text()
    linked = re.findall(r"\]\((\.\./[^)]+)\)", text)
    named = re.findall(r"`((?:config|requirements|scripts)/[\w./-]*)`", text)
    assert len(linked) > 5
    assert len(named) > 3
    for path in linked:
        assert (DOCUMENT.parent / path).exists(), path
    for path in named:
        assert (DOCUMENT.parents[1] / path).exists(), path
