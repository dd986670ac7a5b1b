"""Consumer groups on real Kafka: their start, commits and topics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.settings import KafkaSettings
from eventstreams.log.kafka.group import KafkaGroup
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Event, Partition, Record
from eventstreams.propagation.http import HttpClient
from eventstreams.propagation.rule_file import Targets
from eventstreams.propagation.service import Propagation, kafka_sources
from eventstreams.propagation.state import MemoryState
from tests.propagation.stage import Target, event, write_rules
from tests.support.kafka_node import new_topic
from tests.support.kafka_tools import opened

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

PATIENCE_S = 120.0


class Owner:
    """Records its assignments."""

    def __init__(self) -> None:
        self.starts: dict[Partition, int] = {}
        self.changed = asyncio.Event()

    def on_assigned(self, starts: Mapping[Partition, int]) -> None:
        self.starts |= starts
        self.changed.set()

    async def on_revoked(self, partitions: Collection[Partition]) -> None:
        for each in partitions:
            self.starts.pop(each, None)


@contextlib.asynccontextmanager
async def member(
    address: str, group: str, topics: Collection[str], **more: Any
) -> AsyncGenerator[tuple[KafkaGroup, Owner]]:
    options: dict[str, Any] = {
        "takes": lambda topic: topic in topics,
        "has_pattern": False,
        "is_earliest": lambda _: False,
        **more,
    }
    owner = Owner()
    made = KafkaGroup(
        settings=KafkaSettings(bootstrap_servers=(address,)), group=group, topics=topics, **options
    )
    async with asyncio.timeout(PATIENCE_S):
        await made.start(owner)
    try:
        yield made, owner
    finally:
        await made.aclose()


async def read(group: KafkaGroup, count: int, without: Collection[Partition] = ()) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(events) < count:
            for each in await group.next(without):
                events += each.events
    return events


async def put(log: KafkaLog, topic: str, *values: bytes) -> None:
    await log.append([Record(topic, value) for value in values])


async def test_the_start_of_a_group_is_committed_before_it_reads(kafka: str) -> None:
    """A crash before the first commit would skip what came in between."""
    topic, name = new_topic("begin"), new_topic("group")
    async with opened(kafka) as log:
        await log.create_topic(topic, 1)
        await put(log, topic, b"old")
        async with member(kafka, name, [topic]) as (_, owner):
            assert owner.starts == {Partition(topic, 0): 1}
        await put(log, topic, b"new")
        async with member(kafka, name, [topic]) as (group, owner):
            assert owner.starts == {Partition(topic, 0): 1}
            assert [each.value for each in await read(group, 1)] == [b"new"]


async def test_a_group_continues_from_its_commits(kafka: str) -> None:
    topic, name = new_topic("commit"), new_topic("group")
    async with opened(kafka) as log:
        await log.create_topic(topic, 2)
        await log.append([Record(topic, b"%d" % n, partition=n % 2) for n in range(6)])
        async with member(kafka, name, [topic], is_earliest=lambda _: True) as (group, _):
            assert len(await read(group, 6)) == 6
            await group.commit({Partition(topic, 0): 2, Partition(topic, 1): 1})
            # Of a partition that is not ours nothing is recorded, and nothing fails.
            await group.commit({Partition(topic, 9): 1})
            ends = await group.ends([Partition(topic, 0), Partition(topic, 1)])
            assert set(ends.values()) == {3}
        async with member(kafka, name, [topic]) as (group, owner):
            assert owner.starts == {Partition(topic, 0): 2, Partition(topic, 1): 1}
            assert sorted(each.value or b"" for each in await read(group, 3)) == [b"3", b"4", b"5"]


async def test_a_pattern_finds_topics_that_are_made_later(kafka: str) -> None:
    base = new_topic("pattern")
    pattern = re.compile(f"^{base}\\.")
    async with (
        opened(kafka) as log,
        member(
            kafka,
            new_topic("group"),
            [],
            takes=lambda topic: bool(pattern.search(topic)),
            has_pattern=True,
            is_earliest=lambda _: True,
            refresh_ms=500,
        ) as (group, _),
    ):
        seen: set[bytes | None] = set()
        for name in (b"one", b"two"):
            topic = f"{base}.{name.decode()}"
            await log.create_topic(topic, 1)
            await put(log, topic, name)
            seen.add(name)
            while (found := (await read(group, 1))[0]).value != name:
                assert found.value in seen, "a rebalance may repeat an event"
            await group.commit({found.partition: found.offset + 1})


async def test_partitions_that_are_left_out_lose_nothing(kafka: str) -> None:
    topic = new_topic("without")
    async with opened(kafka) as log:
        await log.create_topic(topic, 2)
        async with member(kafka, new_topic("group"), [topic]) as (group, _):
            held = Partition(topic, 0)
            await log.append([Record(topic, b"%d" % n, partition=n % 2) for n in range(2000)])
            found = await read(group, 1000, without=[held])
            assert {each.partition for each in found} == {Partition(topic, 1)}
            found = await read(group, 1000)
            assert [each.offset for each in found] == list(range(1000))
            assert {each.partition for each in found} == {held}


async def test_topics_and_partitions_that_appear_are_read_from_their_beginning(
    kafka: str,
) -> None:
    topic, there = new_topic("appears"), new_topic("there")
    async with opened(kafka) as log:
        await log.create_topic(there, 1)
        await put(log, there, b"old")
        async with member(
            kafka, new_topic("group"), [topic, there], known=[f"{topic}s"], refresh_ms=500
        ) as (group, owner):
            assert owner.starts == {Partition(there, 0): 1}
            assert group.missing == {topic: [f"{topic}s"]}
            assert topic not in await log.partitions([topic]), "the broker does not make it"
            await log.create_topic(topic, 1)
            await put(log, topic, b"first")
            [found] = await read(group, 1)
            assert (found.partition, found.value) == (Partition(topic, 0), b"first")
            assert group.missing == {}
            await group.commit({found.partition: 1})
            await log.create_topic(there, 2)
            await log.append([Record(there, b"second", partition=1)])
            [found] = await read(group, 1)
            assert (found.partition, found.value) == (Partition(there, 1), b"second")


async def test_retries_on_kafka_are_acted_on_by_the_same_rule(kafka: str, tmp_path: Path) -> None:
    topic, service = new_topic("retry"), new_topic("svc")
    loaded = write_rules(
        tmp_path,
        f"service: {service}\nrules:\n  r:\n    topic: {topic}\n    retry_delay: 10\n"
        "    retry_factor: 1\n    exec: {uri: 'http://x/{message.n}'}\n",
    )
    settings = KafkaSettings(bootstrap_servers=(kafka,))
    async with Target().running() as target, opened(kafka) as log:
        target.answers(500, 500, 200)
        propagation = Propagation(
            loaded=loaded,
            catalogue=None,
            log=log,
            open_source=kafka_sources(settings),
            state=MemoryState(),
            producing=None,
            metrics=Metrics(),
            http=HttpClient(targets=Targets(allow_private=True), resolve=target.resolve),
        )
        await log.create_topic(topic, 2)
        await propagation.make_topics()
        async with propagation.running():
            async with asyncio.timeout(PATIENCE_S):
                await propagation.started()
            await put(log, topic, json.dumps(event(topic, n=7)).encode())
            await target.received(3)
            assert [call.path for call in target.calls] == ["/7"] * 3
            assert target.calls[2].headers["x-triggered-by"].count(f"{service}.retry.{topic}") == 2
        found = await log.partitions([f"{service}.retry.{topic}"])
        assert len(found[f"{service}.retry.{topic}"]) == 2, "as many as its topic"
