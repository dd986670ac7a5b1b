"""`since` and `until` over records whose times repeat, jump and descend, on every log."""

from __future__ import annotations

import asyncio
from itertools import accumulate

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.config.settings import FanoutSettings
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.spec import Format, everything
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition, Record
from eventstreams.turns import Turns
from tests.support.backends import Backend, Kafka, over_all_backends

_NEAR_MS = st.integers(1_000, 1_010)
_ANY_MS = st.integers(0, 1_700_000_000_000)
batches = st.lists(st.lists(_NEAR_MS | _ANY_MS, min_size=1, max_size=6), min_size=1, max_size=4)


async def _agrees(kind: type[Backend], times: list[list[int]], forgotten: int) -> None:
    flat = [time_ms for batch in times for time_ms in batch]
    forgotten = min(forgotten, len(flat))
    if kind is Kafka and forgotten:
        # After DeleteRecords, a broker finds no record for a time that the first segment reached
        # only with deleted ones. KafkaLog then reads only the oldest record, which is correct if
        # times ascend. This does not happen with retention, which removes whole segments.
        flat.sort()
        sizes = accumulate(map(len, times), initial=0)
        times = [
            flat[first : first + len(batch)] for first, batch in zip(sizes, times, strict=False)
        ]
    async with kind.place() as backend:
        log = await backend.open()
        try:
            topic = await backend.topic(log, 1)
            partition = Partition(topic, 0)
            for batch in times:
                await log.append([Record(topic, b"{}", timestamp_ms=at_ms) for at_ms in batch])
            if forgotten:
                await backend.forget_before(log, partition, forgotten)
            hub = Hub(
                log=log,
                topics=[topic],
                settings=FanoutSettings(),
                metrics=Metrics(),
                turns=Turns(),
                started=True,
                filters_share=lambda: 0.5,
            )
            await hub.follower.refresh()
            spec = everything(Format.SSE)._replace(partitions=(partition,))
            for asked in {0, *flat, *(at_ms + 1 for at_ms in flat), 2**62}:
                kept = range(forgotten, len(flat))
                first = next((n for n in kept if flat[n] >= asked), len(flat))
                assert (await hub.resume_resolver.at_time(partition, asked)).offset == first
                assert await hub.ends_at(spec, asked) == (first,)
            await hub.follower.aclose()
        finally:
            await log.aclose()


@over_all_backends
def test_since_and_until_refer_to_the_first_record_of_a_time(kind: type[Backend]) -> None:
    @settings(
        max_examples=kind.examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(batches, st.integers(0, 4))
    def agrees(times: list[list[int]], forgotten: int) -> None:
        asyncio.run(_agrees(kind, times, forgotten))

    agrees()
