"""Jobs of a job queue: delayed, deduplicated, partitioned, each type with its own concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from eventstreams.log.memory import MemoryLog
from eventstreams.propagation.events import iso
from eventstreams.propagation.rule_file import load_rules
from tests.propagation.stage import NOW_MS, RULES, HaltingLog, Stage, event, partition, running

pytestmark = pytest.mark.anyio

COUNTS = "dc1.mediawiki.job.updateCounts"
HTML = "dc1.mediawiki.job.htmlCacheUpdate"
LINKS = "dc1.mediawiki.job.refreshLinks"


@contextlib.asynccontextmanager
async def jobs(log: MemoryLog | None = None) -> AsyncGenerator[Stage]:
    loaded = await asyncio.to_thread(load_rules, RULES / "jobs.yaml")
    async with running(
        loaded, log=log, catalogue=RULES / "streams.yaml", schemas=RULES.parent / "schemas"
    ) as stage:
        yield stage


def job(
    id_: str = "id-1", *, made_ms: int = NOW_MS, kind: str = "updateCounts", **more: Any
) -> Any:
    made = event(f"mediawiki.job.{kind}", type=kind, database="enwiki", **more)
    made["meta"] |= {"id": id_, "dt": iso(made_ms)}
    return made


async def test_a_job_is_posted_verbatim_to_its_wiki() -> None:
    async with jobs() as stage:
        one = job(params={"prefs": ["a", 2**60, 1.5, None, "ü"]})
        await stage.act(COUNTS, one)
        [call] = stage.target.calls
        assert (call.method, call.path) == ("POST", "/Special:RunSingleJob")
        assert call.headers["host"] == "en.wikipedia.org"
        assert call.json == one


async def test_a_delayed_job_runs_when_its_time_has_come_and_takes_no_slot() -> None:
    async with jobs() as stage:
        await stage.act(HTML, job(kind="htmlCacheUpdate", delay_until=iso(NOW_MS + 3000)))
        assert stage.target.calls == []
        [state] = [r for r in stage.service.state()["rules"] if r["name"] == "htmlCacheUpdate"]
        assert (state["running"], state["waiting"]) == (0, 1)
        await stage.advance(2999)
        assert stage.target.calls == []
        await stage.advance(1)
        assert len(stage.target.calls) == 1


async def test_a_job_due_much_later_is_reenqueued() -> None:
    async with jobs() as stage:
        made = job(kind="htmlCacheUpdate", delay_until=(NOW_MS + 13_000) // 1000)
        await stage.act(HTML, made)
        await stage.advance(10_000)
        copies = await stage.documents(HTML)
        assert copies == [made, made]
        assert stage.target.calls == []
        await stage.advance(3000)
        assert len(stage.target.calls) == 1
        assert stage.counts("htmlCacheUpdate") == {"reenqueued": 1, "processed": 1}


async def test_a_job_with_an_id_that_was_seen_is_dropped() -> None:
    async with jobs() as stage:
        await stage.act(COUNTS, job("a"))
        await stage.act(COUNTS, job("a"), job("b"))
        assert [call.json["meta"]["id"] for call in stage.target.calls] == ["a", "b"]
        await stage.advance(3_600_001)
        await stage.act(COUNTS, job("a", made_ms=NOW_MS + 3_600_001))
        assert len(stage.target.calls) == 3, "only for a while"


async def test_a_job_is_dropped_if_the_same_was_done_later() -> None:
    async with jobs() as stage:
        await stage.act(COUNTS, job("a", sha1="s"))
        await stage.act(COUNTS, job("b", sha1="s", made_ms=NOW_MS - 1001), job("c", sha1="s"))
        await stage.act(COUNTS, job("d", sha1="other", made_ms=NOW_MS - 1001))
        assert [call.json["meta"]["id"] for call in stage.target.calls] == ["a", "c", "d"]


async def test_a_job_of_an_older_root_event_with_the_same_content_is_dropped() -> None:
    async with jobs() as stage:
        root = {"signature": "sig", "dt": iso(NOW_MS - 5000)}
        await stage.act(COUNTS, job("a", sha1="s", root_event=root))
        await stage.act(COUNTS, job("b", sha1="s", root_event=root, made_ms=NOW_MS + 10))
        assert [call.json["meta"]["id"] for call in stage.target.calls] == ["a"]


async def test_a_job_of_a_superseded_root_event_is_dropped() -> None:
    async with jobs() as stage:
        for id_, root_ms in (("a", 100), ("b", 200), ("c", 100), ("d", 200)):
            root = {"signature": "sig", "dt": iso(NOW_MS + root_ms)}
            await stage.act(COUNTS, job(id_, root_event=root))
        assert [call.json["meta"]["id"] for call in stage.target.calls] == ["a", "b", "d"]


async def test_a_job_that_is_too_old_is_dropped() -> None:
    async with jobs() as stage:
        kind = "htmlCacheUpdate"
        old_root = {"signature": "x", "dt": iso(NOW_MS - 7_200_001)}
        await stage.act(
            HTML,
            job("a", kind=kind, made_ms=NOW_MS - 3_600_001),
            job("b", kind=kind, made_ms=NOW_MS - 3_600_000),
            job("c", kind=kind, root_event=old_root),
        )
        assert [call.json["meta"]["id"] for call in stage.target.calls] == ["b"]
        assert stage.counts(kind) == {"too_old": 2, "processed": 1}


async def test_partitioned_jobs_change_only_their_stream() -> None:
    log = HaltingLog()
    topic = "dc1.partitioned.mediawiki.job.refreshLinks"
    await log.create_topic(topic, 3)
    async with jobs(log) as stage:
        made = [
            {**job(str(n), kind="refreshLinks"), "database": wiki}
            for n, wiki in enumerate(("enwiki", "dewiki", "frwiki"))
        ]
        await stage.act(LINKS, *made)
        for number, original in ((0, made[0]), (2, made[1]), (1, made[2])):
            [found] = (await log.read(partition(topic, number), 0, 10**6)).events
            expected = json.loads(json.dumps(original))
            expected["meta"]["stream"] = "partitioned.mediawiki.job.refreshLinks"
            assert json.loads(found.value or b"") == expected


async def test_each_type_of_job_has_its_own_slots() -> None:
    async with jobs() as stage:
        stage.target.hold()
        for n in range(5):
            await stage.put(COUNTS, job(f"c{n}"))
            await stage.put(HTML, job(f"h{n}", kind="htmlCacheUpdate"))
        await stage.target.received(7)
        states = {rule["name"]: rule for rule in stage.service.state()["rules"]}
        assert states["updateCounts"]["running"] == 2
        assert states["htmlCacheUpdate"]["running"] == 5
        stage.target.release()
        await stage.idle()
        assert len(stage.target.calls) == 10
