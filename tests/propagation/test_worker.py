"""Rules act at least once, in order if required, in bounded memory, whatever fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import AppendRefused, ConfigError, LogError, LogUnavailable
from eventstreams.model.event import Partition, Record
from eventstreams.propagation.source import MemoryPositions, PositionFile
from eventstreams.propagation.state import MemoryState
from tests.propagation.stage import (
    PATIENCE_S,
    Call,
    HaltingLog,
    ManualClock,
    Target,
    event,
    partition,
    running,
    write_rules,
)
from tests.support.thoroughness import LONG

pytestmark = pytest.mark.anyio


def rules(tmp_path: Path, more: str = "", top: str = "") -> Any:
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    exec_ = "" if "exec:" in more else "    exec: {method: post, uri: 'http://x/{message.n}'}\n"
    text = f"service: s\n{top}\nrules:\n  r:\n    topic: t\n{exec_}{lines}"
    return write_rules(tmp_path, text)


def numbered(n: int, **more: Any) -> Any:
    made = event("t", n=n, **more)
    made["meta"]["id"] = f"id-{n}"
    return made


def seen(target: Target) -> Counter[str]:
    return Counter(call.path.removeprefix("/") for call in target.calls)


async def test_uncommitted_events_are_acted_on_again(
    tmp_path: Path,
) -> None:
    """The process dies while events are in flight that finish out of order."""
    log, positions, clock = HaltingLog(), MemoryPositions(), ManualClock()
    loaded = rules(tmp_path, "concurrency: 3\ndedupe: false")
    async with Target().running() as target:
        async with running(
            loaded, log=log, positions=positions, clock=clock, target=target
        ) as stage:
            await stage.act("t", *map(numbered, range(5)))
            clock.advance(500)
            await stage.idle()
            stage.target.hold()
            await stage.put("t", *map(numbered, range(5, 8)))
            await stage.target.received(8)
            crashed = MemoryPositions()
            await crashed.commit("s-r", positions.of("s-r"))
            stage.target.release()
        assert crashed.of("s-r")[partition("t")] <= 5
        async with running(loaded, log=log, positions=crashed, clock=clock, target=target) as stage:
            await stage.idle()
        counts = seen(target)
        assert counts.keys() == set(map(str, range(8)))
        assert all(counts[str(n)] == 2 for n in (5, 6, 7))


async def test_a_commit_never_passes_an_event_that_waits(tmp_path: Path) -> None:
    class Watched(MemoryPositions):
        changed = asyncio.Event()

        async def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
            await super().commit(group, positions)
            self.changed.set()

    positions = Watched()
    async with running(rules(tmp_path), positions=positions) as stage:
        later = numbered(1) | {"delay_until": "2023-11-14T22:13:30Z"}
        await stage.act("t", numbered(0), later, numbered(2))
        assert seen(stage.target) == {"0": 1, "2": 1}
        async with asyncio.timeout(PATIENCE_S):
            while positions.of("s-r")[partition("t")] < 1:
                positions.changed.clear()
                stage.clock.advance(500)
                await positions.changed.wait()
        assert positions.of("s-r")[partition("t")] == 1


async def test_a_stop_finishes_and_commits_running_jobs(tmp_path: Path) -> None:
    positions, log = MemoryPositions(), HaltingLog()
    loaded = rules(tmp_path)
    async with Target().running() as target:
        async with running(loaded, log=log, positions=positions, target=target) as stage:
            await stage.act("t", *map(numbered, range(4)))
        assert positions.of("s-r")[partition("t")] == 4


async def test_a_new_rule_begins_at_the_end_and_loses_nothing_after(
    tmp_path: Path,
) -> None:
    log, positions = HaltingLog(), MemoryPositions()
    await log.append([Record("t", json.dumps(numbered(0)).encode())])
    async with Target().running() as target:
        async with running(rules(tmp_path), log=log, positions=positions, target=target):
            pass
        await log.append([Record("t", json.dumps(numbered(1)).encode())])
        async with running(rules(tmp_path), log=log, positions=positions, target=target) as stage:
            await stage.idle()
        assert seen(target) == {"1": 1}


async def test_a_rule_can_begin_at_the_oldest_event(tmp_path: Path) -> None:
    log = HaltingLog()
    await log.append([Record("t", json.dumps(numbered(0)).encode())])
    async with running(rules(tmp_path, top="start: earliest"), log=log) as stage:
        await stage.idle()
        assert seen(stage.target) == {"0": 1}


@pytest.mark.parametrize("concurrency", [1, 2, 7])
async def test_concurrency_is_limited_by_the_rule(tmp_path: Path, concurrency: int) -> None:
    async with running(rules(tmp_path, f"concurrency: {concurrency}")) as stage:
        await stage.act("t", *map(numbered, range(40)))
        assert stage.target.most_open <= concurrency
        assert len(stage.target.calls) == 40


# Order.


async def test_events_of_one_key_run_one_at_a_time(
    tmp_path: Path,
) -> None:
    async with running(rules(tmp_path, "order_by: '{{message.key}}'\nretry_jitter: 0")) as stage:
        failures = {"a": 1}

        def answer(call: Call) -> int:
            key, n = call.path.removeprefix("/").split("-")
            if n == "0" and failures.get(key):
                failures[key] -= 1
                return 500
            return 200

        stage.target.answer = answer
        await stage.act("t", *(numbered(0) | {"n": f"{k}-{n}", "key": k, "meta": {}}
                               for n in range(3) for k in "ab"))  # fmt: skip
        assert [call.path for call in stage.target.calls if "a" in call.path] == ["/a-0"]
        assert [call.path for call in stage.target.calls if "b" in call.path] == [
            "/b-0", "/b-1", "/b-2"
        ]  # fmt: skip
        await stage.advance(60_000)
        assert [call.path for call in stage.target.calls if "a" in call.path] == [
            "/a-0", "/a-0", "/a-1", "/a-2"
        ]  # fmt: skip
        assert await stage.events("s.retry.t") == [], "a retry that keeps its place"


async def test_a_final_failure_releases_the_next_event_of_its_key(
    tmp_path: Path,
) -> None:
    async with running(rules(tmp_path, "order_by: k\nretry_limit: 0")) as stage:
        stage.target.answer = lambda call: 500 if call.path == "/0" else 200
        await stage.act("t", *map(numbered, range(3)))
        assert [call.path for call in stage.target.calls] == ["/0", "/1", "/2"]
        assert len(await stage.documents("s.error")) == 1


async def test_many_keys_keep_their_order_under_load(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "order_by: '{{message.key}}'\nconcurrency: 8")) as stage:
        count = 300
        await stage.act("t", *(numbered(n) | {"key": f"k{n * 7 % 13}"} for n in range(count)))
        by_key: dict[int, list[int]] = defaultdict(list)
        for call in stage.target.calls:
            n = int(call.path.removeprefix("/"))
            by_key[n * 7 % 13].append(n)
        assert sum(map(len, by_key.values())) == count
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


# Failures.


async def test_without_retries_a_failure_becomes_an_error_event(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "retry_limit: 0")) as stage:
        stage.target.answers(500)
        await stage.act("t", numbered(1))
        assert await stage.events("s.retry.t") == []
        [error] = await stage.documents("s.error")
        assert error["emitter_id"] == "s#r"
        assert json.loads(error["raw_event"]) == numbered(1)


async def test_retry_after_makes_the_wait_longer(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "retry_delay: 1000")) as stage:
        answers = [(503, {"retry-after": "120"}, b"")]
        stage.target.answer = lambda _: answers.pop() if answers else 200
        await stage.act("t", numbered(1))
        await stage.advance(119_999)
        assert len(stage.target.calls) == 1
        await stage.advance(1)
        assert len(stage.target.calls) == 2


async def test_an_attempt_at_a_read_only_database_does_not_count(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "retry_delay: 0\nretry_limit: 1")) as stage:
        answers: list[Any] = [(503, {"x-readonly": "true"}, b"")] * 3
        stage.target.answer = lambda _: answers.pop() if answers else 200
        await stage.act("t", numbered(1))
        for _ in range(3):
            await stage.advance(60_000)
        assert len(stage.target.calls) == 4
        assert await stage.documents("s.error") == []


async def test_a_failing_host_gets_no_requests_for_a_while(tmp_path: Path) -> None:
    top = "circuit_breaker: {failures: 2, pause: 30}"
    async with running(rules(tmp_path, "retry_limit: 0\nconcurrency: 1", top)) as stage:
        stage.target.answers(503)
        await stage.act("t", *map(numbered, range(5)))
        assert len(stage.target.calls) == 2
        assert stage.service.state()["open_circuits"] == ["x"]
        assert len(await stage.documents("s.error")) == 5
        stage.clock.advance(30_000)
        stage.target.answers(200)
        await stage.act("t", numbered(5), numbered(6))
        assert len(stage.target.calls) == 4
        assert stage.service.state()["open_circuits"] == []


async def test_a_loop_ends_as_an_error_event(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "loop_limit: 2")) as stage:
        link = "t:/sample/uri"
        for rounds in range(4):
            chain = ",".join(["req:1", *[link, "u:/other"] * rounds])
            await stage.act("t", numbered(rounds, triggered_by=chain))
        assert seen(stage.target) == {"0": 1, "1": 1, "2": 1}
        [error] = await stage.documents("s.error")
        assert error["error_type"] == "Loop"


async def test_a_private_target_is_an_error_and_not_retried(tmp_path: Path) -> None:
    loaded = rules(tmp_path, "exec: {uri: 'http://127.0.0.1:9/'}")
    async with running(loaded, open_targets=False) as stage:
        await stage.act("t", numbered(1))
        [error] = await stage.documents("s.error")
        assert error["error_type"] == "TargetRefused"
        assert stage.target.calls == []


async def test_an_event_waits_until_its_retry_is_stored(tmp_path: Path) -> None:
    log, state = HaltingLog(), MemoryState()
    async with running(rules(tmp_path), log=log, state=state) as stage:
        stage.target.answers(500, 200)
        log.trouble = lambda record: LogUnavailable("gone") if record.topic != "t" else None
        await stage.act("t", numbered(1))
        await stage.advance(5000)
        assert await stage.events("s.retry.t") == []
        assert len(state) == 0, "it would be a duplicate after a crash"
        [seen_by_operators] = stage.service.state()["rules"]
        assert seen_by_operators["partitions"]["t/0"]["in_flight"] == 1
        log.trouble = lambda _: None
        await stage.advance(1000)
        assert len(await stage.events("s.retry.t")) == 1
        assert len(stage.target.calls) == 1, "it was not acted on again for that"


async def test_a_retry_refused_by_the_log_becomes_an_error_event(tmp_path: Path) -> None:
    def refuse(record: Record) -> LogError | None:
        return AppendRefused("too large") if record.topic == "s.retry.t" else None

    log = HaltingLog()
    async with running(rules(tmp_path), log=log) as stage:
        stage.target.answers(500)
        log.trouble = refuse
        await stage.act("t", numbered(1))
        await stage.advance(1000)
        [error] = await stage.documents("s.error")
        assert error["error_type"] == "AppendRefused"
        assert stage.counts("r") == {"failed": 1}


TARGETS = 10_000 if LONG else 500


async def test_many_failing_targets_take_bounded_memory(tmp_path: Path) -> None:
    loaded = rules(
        tmp_path, "exec: {uri: 'http://host-{message.n}.test/'}\nconcurrency: 50\nretry_limit: 0"
    )
    async with running(loaded, pools_max=16) as stage:
        stage.target.answers(503)
        for first in range(0, TARGETS, 500):
            await stage.act("t", *map(numbered, range(first, first + 500)))
        assert len(stage.target.calls) == TARGETS
        assert stage.http.pools <= 16 + 50
        assert len(stage.service.state()["open_circuits"]) == 0
        [state] = stage.service.state()["rules"]
        assert state["waiting"] == state["ready"] == state["running"] == 0


async def test_an_event_that_a_search_takes_too_long_for_becomes_an_error_event(
    tmp_path: Path,
) -> None:
    match = "match: {text: '/^(a|a)+$/'}"
    async with running(rules(tmp_path, match)) as stage:
        await stage.act("t", numbered(0, text="a" * 60 + "!"), numbered(1, text="aaa"))
        assert seen(stage.target) == {"1": 1}
        [error] = await stage.documents("s.error")
        assert "took longer than" in error["message"]
        assert stage.counts("r") == {"failed": 1, "processed": 1}


async def test_a_blacklist_that_takes_too_long_makes_an_error_event(tmp_path: Path) -> None:
    more = "blacklist: {en.wikipedia.org: '/^(a|a)+$/'}"
    async with running(rules(tmp_path, more)) as stage:
        hard = numbered(0)
        hard["meta"]["uri"] = "a" * 60 + "!"
        await stage.act("t", hard, numbered(1))
        assert seen(stage.target) == {"1": 1}
        [error] = await stage.documents("s.error")
        assert error["error_type"] == "SearchTooLong"


# Waiting.


async def test_waiting_events_are_bounded(
    tmp_path: Path,
) -> None:
    loaded = rules(tmp_path, "waiting_max: 16\nreenqueue_delay: 100\nconcurrency: 2")
    async with running(loaded) as stage:
        due = {"delay_until": "2023-11-14T22:14:20Z"}
        await stage.act("t", *(numbered(n) | due for n in range(9)), numbered(100))
        assert seen(stage.target) == {"100": 1}, "waiting takes no slot"
        await stage.put("t", *(numbered(n) | due for n in range(9, 30)))
        await stage.put("t", numbered(101))
        [state] = stage.service.state()["rules"]
        assert state["waiting"] <= 16
        for _ in range(4):
            stage.clock.advance(60_000)
            await stage.idle()
        assert seen(stage.target).keys() == {*map(str, range(30)), "100", "101"}


async def test_a_paused_rule_continues_where_it_was(tmp_path: Path) -> None:
    async with running(rules(tmp_path)) as stage:
        worker = stage.service.workers["r"]
        worker.pause()
        await stage.put("t", numbered(1))
        assert stage.service.state()["rules"][0]["paused"] is True
        worker.resume()
        await stage.idle()
        assert seen(stage.target) == {"1": 1}


# Clocks that are set.

HOURS_MS = 5 * 3_600_000


@pytest.mark.parametrize("jump_ms", [-HOURS_MS, HOURS_MS])
async def test_commits_go_on_when_the_clock_is_set(tmp_path: Path, jump_ms: int) -> None:
    positions = MemoryPositions()
    async with running(rules(tmp_path), positions=positions) as stage:
        await stage.act("t", numbered(0))
        stage.clock.jump(jump_ms)
        await stage.act("t", numbered(1))
        async with asyncio.timeout(PATIENCE_S):
            while positions.of("s-r")[partition("t")] < 2:
                stage.clock.advance(500)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("jump_ms", [-HOURS_MS, HOURS_MS])
@pytest.mark.parametrize("more", ["", "order_by: k"])
async def test_a_retry_waits_as_long_as_it_should_when_the_clock_is_set_back(
    tmp_path: Path, more: str, jump_ms: int
) -> None:
    async with running(rules(tmp_path, f"retry_delay: 1000\n{more}")) as stage:
        stage.target.answers(500, 200)
        await stage.act("t", numbered(1))
        stage.clock.jump(jump_ms)
        await stage.advance(500)
        assert len(stage.target.calls) == 1
        await stage.advance(500)
        assert len(stage.target.calls) == 2


async def test_a_retry_read_after_the_clock_was_set_back_waits_no_longer(tmp_path: Path) -> None:
    log, positions, clock = HaltingLog(), MemoryPositions(), ManualClock()
    loaded = rules(tmp_path, "retry_delay: 1000")
    async with Target().running() as target:
        target.answers(500, 200)
        async with running(
            loaded, log=log, positions=positions, clock=clock, target=target
        ) as stage:
            await stage.act("t", numbered(1))
        clock.jump(-HOURS_MS)
        async with running(
            loaded, log=log, positions=positions, clock=clock, target=target
        ) as stage:
            await stage.idle()
            assert len(target.calls) == 1
            await stage.advance(1000)
            assert len(target.calls) == 2


async def test_a_circuit_closes_in_time_when_the_clock_is_set_back(tmp_path: Path) -> None:
    top = "circuit_breaker: {failures: 1, pause: 30}"
    async with running(rules(tmp_path, "retry_limit: 0", top)) as stage:
        stage.target.answers(503, 200)
        await stage.act("t", numbered(1))
        stage.clock.jump(-HOURS_MS)
        await stage.advance(30_000)
        await stage.act("t", numbered(2))
        assert seen(stage.target) == {"1": 1, "2": 1}


# Topics that do not exist.


async def test_a_missing_topic_is_reported_once_and_read_when_it_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = tmp_path / "streams.yaml"
    catalogue.write_text("simple_topic:\n")
    text = """
service: s
rules:
  r:
    topics: [simple_topi, simple_topic]
    exec: {method: post, uri: 'http://x/{message.n}'}
"""
    loaded = write_rules(tmp_path, text)
    caplog.set_level(logging.INFO, "eventstreams.propagation.worker")
    async with running(loaded, catalogue=catalogue, make_topics=False, look_every_s=0.02) as stage:
        await stage.put("simple_topic", numbered(0))
        await stage.target.received(1)
        [state] = stage.service.state()["rules"]
        assert state["missing_topics"] == {"simple_topi": ["simple_topic"]}
        assert (await stage.log.partitions(["simple_topi"])) == {}, "it is not created"
        await stage.service.measure()
        assert stage.metrics.propagation_missing.labels("r")._value.get() == 1
        await stage.put("simple_topi", numbered(1))
        await stage.target.received(2)
        await stage.idle()
        [state] = stage.service.state()["rules"]
        assert state["missing_topics"] == {}
        await stage.act("simple_topi", numbered(2))
        assert seen(stage.target) == {"0": 1, "1": 1, "2": 1}
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "rule r reads topic simple_topi, which does not exist yet; did you mean simple_topic?",
        "rule r: topic simple_topi exists now",
    ]


# Deduplication.


async def test_an_event_is_recorded_after_it_was_acted_on(tmp_path: Path) -> None:
    """A crash between the mark and the action would lose the event."""
    state = MemoryState()
    async with running(rules(tmp_path), state=state) as stage:
        stage.target.hold()
        await stage.put("t", numbered(1))
        await stage.target.received(1)
        assert len(state) == 0
        stage.target.release()
        await stage.idle()
        await stage.act("t", numbered(1))
        assert seen(stage.target) == {"1": 1}
        assert stage.counts("r") == {"processed": 1, "duplicate": 1}


async def test_events_without_dedupe_are_acted_on_twice(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "dedupe: false")) as stage:
        await stage.act("t", numbered(1), numbered(1))
        assert seen(stage.target) == {"1": 2}


async def test_state_in_memory_is_bounded() -> None:
    state = MemoryState(entries_max=10)
    for n in range(100):
        await state.put(f"k{n}", n, 1000, 0)
        await state.record(f"k{n}", 1000, 5, n)
    assert len(state) == 20


# Positions.


def test_positions_survive_the_process_and_are_locked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "positions.json"
    file = PositionFile(path)
    asyncio.run(file.commit("g", {partition("a.b"): 7, partition("a.b", 2): 9}))
    with pytest.raises(ConfigError, match="another process"):
        PositionFile(path)
    file.close()
    again = PositionFile(path)
    assert again.of("g") == {partition("a.b"): 7, partition("a.b", 2): 9}
    assert again.of("h") == {}
    again.close()


def test_an_invalid_position_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    for text in ("{", "[]", '{"g": 1}', '{"g": {"t": {"x": 1}}}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not a file of positions"):
            PositionFile(path)
