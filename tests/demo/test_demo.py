"""The demo feed is plausible, marked as synthetic, and steady."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.demo.feed import DemoFeed
from eventstreams.demo.recent_changes import RecentChanges
from eventstreams.errors import AppendRefused, LogUnavailable
from eventstreams.log.memory import MemoryLog
from eventstreams.model.catalogue import Stream
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.model.timestamp import parse_timestamp

STREAM = Stream("mediawiki.recentchange", ("a.rc", "b.rc"), frozenset(), (), None, None)
_FIELDS = {
    "$schema": str, "meta": dict, "id": int, "type": str, "namespace": int, "title": str,
    "title_url": str, "comment": str, "parsedcomment": str, "timestamp": int, "user": str,
    "bot": bool, "server_url": str, "server_name": str, "server_script_path": str, "wiki": str,
}  # fmt: skip


def _events(seed: int, count: int) -> list[dict[str, Any]]:
    made = RecentChanges(stream=STREAM.name, seed=seed)
    return [made.event(1_790_000_000_000 + 37 * n) for n in range(count)]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_events_are_synthetic_recent_changes(seed: int) -> None:
    for n, event in enumerate(_events(seed, 60)):
        assert json.loads(json.dumps(event)) == event
        for name, kind in _FIELDS.items():
            assert isinstance(event[name], kind), name
        meta = event["meta"]
        assert event["synthetic"] is True
        assert meta["domain"].endswith(".example")
        assert meta["domain"] == event["server_name"]
        assert event["server_url"] == f"https://{event['server_name']}"
        assert meta["stream"] == STREAM.name
        assert parse_timestamp(meta["dt"]) == 1_790_000_000_000 + 37 * n
        assert event["timestamp"] == (1_790_000_000_000 + 37 * n) // 1000
        assert uuid.UUID(meta["id"]).version == uuid.UUID(meta["request_id"]).version == 4


def test_revisions_and_lengths_are_consistent() -> None:
    last: dict[tuple[str, str], tuple[int, int]] = {}
    newest = 0
    continued = 0
    for event in _events(7, 5000):
        if event["type"] not in ("edit", "new"):
            continue
        key = (event["wiki"], event["title"])
        old, new = event["revision"]["old"], event["revision"]["new"]
        assert new > newest
        newest = new
        assert event["length"]["new"] >= 0
        if event["type"] == "new":
            assert old is event["length"]["old"] is None
        elif key in last:
            assert (old, event["length"]["old"]) == last[key]
            continued += 1
        last[key] = (new, event["length"]["new"])
    assert continued > 1000


def test_all_kinds_of_changes_wikis_and_users_occur() -> None:
    events = _events(3, 2000)
    assert {event["type"] for event in events} == {"edit", "new", "categorize", "log"}
    assert len({event["wiki"] for event in events}) >= 5
    assert {event["bot"] for event in events} == {True, False}
    assert len({event["meta"]["id"] for event in events}) == len(events)


def test_the_same_seed_makes_the_same_events() -> None:
    assert _events(5, 50) == _events(5, 50)
    assert _events(5, 50) != _events(6, 50)


def test_a_new_page_gets_an_event_of_its_own_in_the_other_stream() -> None:
    pages = Stream("mediawiki.page-create", ("a.pc", "b.pc"), frozenset(), (), None, None)
    feed = DemoFeed(log=MemoryLog(), stream=STREAM, new_pages=pages, rate=20, seed=4)
    records = [(record.topic, json.loads(record.value or b"")) for record in feed.records(500)]
    changes = [event for topic, event in records if topic in STREAM.topics]
    created = [event for topic, event in records if topic in pages.topics]
    new = [change for change in changes if change["type"] == "new"]
    assert len(changes) == 500
    assert [event["rev_id"] for event in created] == [change["revision"]["new"] for change in new]
    assert {event["meta"]["stream"] for event in created} == {pages.name}
    ids = [event["meta"]["id"] for _, event in records]
    assert len({*ids}) == len(ids)


class _Clock:
    """A loop time that advances with every sleep, so that an hour passes immediately."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until_s: float) -> None:
        self.now = 0.0
        self._until_s = until_s
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now, raising=False)
        monkeypatch.setattr("eventstreams.demo.feed.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)

    def move(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._until_s:
            raise asyncio.CancelledError


class _SlowLog(MemoryLog):
    """A log whose appends take time, and fail if a test requires it."""

    def __init__(self, *, append_s: float = 0.0) -> None:
        super().__init__()
        self.clock: _Clock | None = None
        self.failures: list[Exception] = []
        self._append_s = append_s

    async def append(self, records: Sequence[Record]) -> list[Placed]:
        assert self.clock is not None
        self.clock.move(self._append_s)
        if self.failures:
            raise self.failures.pop()
        return await super().append(records)

    def count(self) -> int:
        return sum(self.run(Partition(topic, 0)).end for topic in STREAM.topics)


@pytest.mark.anyio
@pytest.mark.parametrize(("rate", "seconds"), [(0.5, 2000), (20, 60), (333, 4), (5000, 0.5)])
async def test_slow_appends_do_not_make_the_rate_drift(
    rate: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _SlowLog(append_s=0.03)
    log.clock = _Clock(monkeypatch, until_s=seconds)
    feed = DemoFeed(log=log, stream=STREAM, rate=rate, seed=1)
    with pytest.raises(asyncio.CancelledError):
        await feed.run()
    monkeypatch.undo()
    assert log.count() == pytest.approx(seconds * rate, abs=2 + 2 * 0.03 * rate)


@pytest.mark.anyio
async def test_failed_appends_are_logged_and_cause_no_burst(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = _SlowLog()
    log.clock = _Clock(monkeypatch, until_s=20)
    log.failures = [LogUnavailable("gone"), AppendRefused("full")] * 4
    with pytest.raises(asyncio.CancelledError):
        await DemoFeed(log=log, stream=STREAM, rate=10, seed=1).run()
    monkeypatch.undo()
    assert len(caplog.records) == 8
    assert all(record.levelname == "WARNING" for record in caplog.records)
    assert 90 < log.count() < 200
