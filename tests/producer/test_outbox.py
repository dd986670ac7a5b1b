"""Events in the outbox are sent, whatever happens to the process."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.producer import Accepted, GaveUp, OutboxError, Producer, ProducerClosed, Rejected
from eventstreams.producer.outbox import Outbox
from eventstreams.producer.queue import Entry, Loss, MemoryStorage, Storage
from tests.producer.scripted import CUT, Events, Said, element, event, held, in_turn, scripted, soon

pytestmark = pytest.mark.anyio


async def down(events: Events) -> Said:
    return CUT


async def test_unsent_events_are_sent_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with (
        scripted(down) as intake,
        Producer(intake.url, outbox=path, drain_s=0, give_up_s=0.01) as producer,
    ):
        await producer.enqueue(event(0), event(1))
        await producer.enqueue(event(2))
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path) as producer:
        assert await soon(producer.send(event(3))) == [Accepted(event(3))]
        assert await producer.losses() == [], "an outage loses no event"
    sent = [each for events in intake.requests for each in events]
    assert sent == [event(n) for n in range(4)]


async def test_settled_events_are_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    said = Said(207, {"invalid": [element("invalid", "bad", index=1)], "error": []})
    async with scripted(in_turn(said)) as intake, Producer(intake.url, outbox=path) as producer:
        await producer.enqueue(event(0), event(1), event(2))
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path):
        pass
    assert intake.requests == []


async def test_waiting_sends_fail_when_the_producer_ends(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    came, _, script = held()
    async with scripted(script) as intake:
        async with Producer(intake.url, outbox=path, drain_s=0) as producer:
            sending = asyncio.create_task(producer.send(event(0)))
            await soon(came.wait())
        with pytest.raises(ProducerClosed, match="waits in the outbox"):
            await sending
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path):
        pass
    assert intake.numbers == [[0]]


async def test_losses_are_kept_and_can_be_retried(tmp_path: Path) -> None:
    bad = {
        "invalid": [element("invalid", "no", index=0)],
        "error": [element("error", "so", index=1)],
    }
    path = tmp_path / "outbox.db"

    async def failing(events: Events) -> Said:
        if events[0]["n"] == 0:
            return Said(500, bad)
        return Said(500, {"error": [element("error", "so", index=0)]})

    async with (
        scripted(failing) as intake,
        Producer(intake.url, outbox=path, give_up_s=0.2) as producer,
    ):
        await producer.enqueue(event(0), event(1))
        await soon(producer.flush())
    lost = [Rejected(event(0), "no"), GaveUp(event(1), "so")]
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path) as producer:
        assert await producer.losses() == lost
        assert await producer.retry_losses() == 2
        assert await producer.losses() == []
        await soon(producer.flush())
        assert await producer.retry_losses() == 0
    assert intake.numbers == [[0, 1]]


async def test_losses_can_be_forgotten(tmp_path: Path) -> None:
    said = Said(400, {"invalid": [element("invalid", "no", index=0)]})
    async with (
        scripted(in_turn(said)) as intake,
        Producer(intake.url, outbox=tmp_path / "outbox.db") as producer,
    ):
        assert await soon(producer.send(event(0))) == [Rejected(event(0), "no")]
        assert await producer.forget_losses() == 1
        assert await producer.losses() == []


async def test_a_full_outbox_blocks_callers(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with (
        scripted(down) as intake,
        Producer(intake.url, outbox=path, drain_s=0) as producer,
    ):
        await producer.enqueue(*(event(n, text="x" * 1000) for n in range(3)))
    came, go, script = held()
    async with (
        scripted(script) as intake,
        Producer(intake.url, outbox=path, queue_bytes_max=4000) as producer,
    ):
        await soon(came.wait())
        waiting = asyncio.create_task(producer.enqueue(event(3, text="x" * 1000)))
        room = asyncio.create_task(asyncio.sleep(0.1))
        await asyncio.wait({waiting, room}, return_when=asyncio.FIRST_COMPLETED)
        assert not waiting.done()
        go.set()
        await soon(waiting)
    assert intake.numbers == [[0, 1, 2], [3]]


async def test_a_second_producer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path):
        with pytest.raises(OutboxError, match="is in use by another producer"):
            async with Producer(intake.url, outbox=path):
                pass
    async with scripted(in_turn()) as intake, Producer(intake.url, outbox=path):
        pass


async def test_another_file_is_refused_and_not_modified(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    text = tmp_path / "text.db"
    text.write_text("not a database, but a text of some length " * 20)
    for path, why in (
        (other, "is a database of a different program"),
        (text, "file is not a database"),
        (tmp_path / "nowhere" / "x.db", "cannot be written: No such file or directory"),
        (tmp_path, "cannot be written|unable to open"),
    ):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(OutboxError, match=why):
            async with Producer("http://127.0.0.1:9", outbox=path):
                pass
        assert before is None or path.read_bytes() == before


async def test_a_full_disk_fails_puts_but_not_deliveries(tmp_path: Path) -> None:
    came, go, script = held()
    async with (
        scripted(script) as intake,
        Producer(intake.url, outbox=tmp_path / "outbox.db") as producer,
    ):
        await producer.enqueue(event(0))
        await soon(came.wait())
        outbox = producer._outbox
        assert outbox is not None
        pages = await outbox._run(lambda: outbox._scalar("PRAGMA page_count"))
        await outbox._run(lambda: outbox._scalar(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(OutboxError, match="full"):
            await producer.enqueue(event(1, text="x" * 100_000))
        await outbox._run(lambda: outbox._scalar("PRAGMA max_page_count = 100000"))
        go.set()
        assert await soon(producer.send(event(2))) == [Accepted(event(2))]
    assert intake.numbers == [[0], [2]]


CHILD = """
import asyncio, sys
from eventstreams.producer import Producer

async def main(url, path, first):
    async with Producer(url, outbox=path, batch_events=7) as producer:
        async def put(n):
            await producer.enqueue({"meta": {"stream": "s", "id": f"id-{n}"}, "n": n})
            print(n, flush=True)
        while True:
            await asyncio.gather(*(put(first + i) for i in range(20)))
            first += 20

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_kill_9_loses_nothing_that_was_put(tmp_path: Path) -> None:
    """Three processes in sequence are killed while they put and send events."""
    path = tmp_path / "outbox.db"
    promised: list[int] = []
    async with scripted(in_turn()) as intake:
        for round_ in range(3):
            first = str(10_000 * round_)
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, intake.url, str(path), first),
                stdout=subprocess.PIPE,
            )
            assert child.stdout is not None
            for _ in range(150):
                promised.append(int(await soon(child.stdout.readline())))
            child.send_signal(signal.SIGKILL)
            promised += [int(line) for line in (await child.stdout.read()).split()]
            await child.wait()
        async with Producer(intake.url, outbox=path) as producer:
            await soon(producer.flush())
    sent = [n for numbers in intake.numbers for n in numbers]
    assert set(promised) <= set(sent)
    for round_ in range(3):
        mine = list(dict.fromkeys(n for n in sent if n // 10_000 == round_))
        assert mine == sorted(mine), "in order"


_steps = st.lists(
    st.tuples(st.just("put"), st.integers(1, 4))
    | st.tuples(st.just("head"), st.integers(1, 6))
    | st.tuples(st.just("remove"), st.integers(0, 5)),
    max_size=15,
)


@settings(deadline=None, max_examples=40)
@given(_steps, st.booleans())
def test_both_storages_are_queues(steps: list[tuple[str, int]], on_disk: bool) -> None:
    async def check(storage: Storage) -> None:
        _, last = await storage.open()
        assert last == 0
        model: list[Entry] = []
        for step, number in steps:
            if step == "put":
                entries = [Entry(last + i + 1, b"x" * 10 * (i + 1)) for i in range(number)]
                last += number
                await storage.put(entries)
                model += entries
            elif step == "head":
                assert await storage.head(number, 10**6) == model[:number]
                assert len(await storage.head(number, 1)) == min(1, len(model))
            elif model:
                gone = model.pop(number % len(model))
                await storage.remove([gone], [Loss(gone, "rejected", "x")] if number > 2 else [])
            assert await storage.oldest() == (model[0].id if model else None)
        await storage.close()
        if isinstance(storage, Outbox):
            again = Outbox(path)
            size, newest = await again.open()
            assert size == sum(entry.size for entry in model)
            assert newest == last
            await again.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox.db"
        asyncio.run(check(Outbox(path) if on_disk else MemoryStorage()))
