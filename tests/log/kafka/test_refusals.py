"""A record that a broker refuses takes a few requests more and affects no other record."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v8

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import AppendRefused, LogError
from eventstreams.log.future import FutureLimit
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.log.kafka.log import KafkaLog
from eventstreams.log.kafka.protocol import Produce
from eventstreams.model.event import Partition, Placed, Record
from tests.support.kafka_tools import read_all, topic_with, values

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

COUNT = 2001


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[KafkaLog]:
    """Open a log that does not limit timestamps, so that the broker refuses them."""
    settings = KafkaSettings(bootstrap_servers=(kafka,))
    log = KafkaLog(settings=settings, future_limit=FutureLimit(future_max_s=1e9))
    await log.start()
    yield log
    await log.aclose()


class Requests:
    """Counts the batches that are sent to a broker."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    requests = Requests()
    ask: Callable[..., Any] = Brokers.ask

    async def counting(self: Brokers, lane: str, node: int, request: Any, *more: Any) -> Any:
        requests.count += isinstance(request, Produce)
        return await ask(self, lane, node, request, *more)

    monkeypatch.setattr(Brokers, "ask", counting)
    return requests


@pytest.fixture
def old_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make brokers answer without naming the refused records, as before Kafka 2.4."""

    def prepare(self: Produce, versions: dict[int, tuple[int, int]]) -> Any:
        least, most = versions[ProduceRequest_v8.API_KEY]
        old = {**versions, ProduceRequest_v8.API_KEY: (least, min(most, 7))}
        return ProduceRequest(*self._fields).prepare(old)

    monkeypatch.setattr(Produce, "prepare", prepare)


def numbered(topic: str, count: int, bad: set[int], worse: dict[str, Any]) -> list[Record]:
    good = {"value": b"x" * 20, "key": b"k", "timestamp_ms": 1_000}
    return [
        Record(topic, **{**good, "value": b"%d" % n, **(worse if n in bad else {})})  # type: ignore[arg-type]
        for n in range(count)
    ]


async def only_these_are_refused(
    log: KafkaLog, records: list[Record], outcomes: list[Placed | LogError], bad: set[int]
) -> None:
    refused = {n for n, o in enumerate(outcomes) if isinstance(o, AppendRefused)}
    assert refused == bad
    placed = [o.offset for o in outcomes if isinstance(o, Placed)]
    assert placed == list(range(len(records) - len(bad)))
    kept = await read_all(log, Partition(records[0].topic, 0))
    assert values(kept) == [r.value for n, r in enumerate(records) if n not in bad]


def hours_ahead() -> dict[str, Any]:
    return {"timestamp_ms": int(time.time() * 1000) + 5 * 3_600_000}


@pytest.mark.parametrize(
    "bad",
    [{0}, {1000}, {COUNT - 1}, set(range(0, COUNT, 7)), set(range(COUNT))],
    ids=["first", "middle", "last", "many", "all"],
)
async def test_refused_records_that_the_broker_names_take_two_requests(
    kafka: str, log: KafkaLog, requests: Requests, bad: set[int]
) -> None:
    topic = await topic_with(kafka)
    records = numbered(topic, COUNT, bad, hours_ahead())
    outcomes = await log.offer(records)
    assert requests.count <= 2
    await only_these_are_refused(log, records, outcomes, bad)
    first = outcomes[min(bad)]
    assert "INVALID_TIMESTAMP (Timestamp " in str(first)


async def test_a_compacted_topic_refuses_only_records_without_keys(
    kafka: str, log: KafkaLog, requests: Requests
) -> None:
    topic = await topic_with(kafka, cleanup_policy="compact")
    records = numbered(topic, COUNT, bad := {3, 1500}, {"key": None})
    outcomes = await log.offer(records)
    assert requests.count <= 2
    await only_these_are_refused(log, records, outcomes, bad)
    assert "INVALID_RECORD" in str(outcomes[3])


@pytest.mark.parametrize("bad", [{0}, {1000}, {COUNT - 1}, {5, 700, 1999}])
@pytest.mark.usefixtures("old_broker")
async def test_refused_records_without_names_are_found_by_halving(
    kafka: str, log: KafkaLog, requests: Requests, bad: set[int]
) -> None:
    topic = await topic_with(kafka)
    records = numbered(topic, COUNT, bad, hours_ahead())
    outcomes = await log.offer(records)
    assert requests.count <= len(bad) * 4 * math.log2(COUNT)
    await only_these_are_refused(log, records, outcomes, bad)


async def test_batches_adapt_to_the_size_limit_of_a_topic(
    kafka: str, log: KafkaLog, requests: Requests
) -> None:
    topic = await topic_with(kafka, max_message_bytes="10000")
    records = numbered(topic, COUNT, bad := {3, 1500}, {"value": b"x" * 20_000})
    outcomes = await log.offer(records)
    await only_these_are_refused(log, records, outcomes, bad)
    assert "TOO_LARGE" in str(outcomes[3])
    requests.count = 0
    again = [Record(topic, b"%d" % n) for n in range(100)]
    assert all(isinstance(outcome, Placed) for outcome in await log.offer(again))
    assert requests.count <= 2, "the limit of the topic is known by now"
    await log.append([Record(topic, b"x" * 100) for _ in range(1000)])


async def test_an_append_with_a_refused_record_fails_without_delaying_others(
    kafka: str, log: KafkaLog
) -> None:
    topic = await topic_with(kafka)
    good = [Record(topic, b"good %d" % n) for n in range(10)]
    bad = [Record(topic, b"a"), Record(topic, b"b", **hours_ahead()), Record(topic, b"c")]
    for _ in range(3):
        with pytest.raises(AppendRefused):
            await log.append(bad)
        await log.append(good)
    kept = await read_all(log, Partition(topic, 0))
    assert values(kept) == [record.value for record in good] * 3
