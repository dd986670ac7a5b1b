"""Cursors of clients and logs in any state: where clients resume, and which gaps they get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from eventstreams.fanout.history import History
from eventstreams.fanout.resume import Gap, Resumed, ResumeResolver, gap_document
from eventstreams.fanout.tails import Tails
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition, Record
from eventstreams.model.frame import Frame
from eventstreams.model.position import EARLIEST, LATEST, PartitionCursor

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
HOUR_MS = 3_600_000
STAMPS = [1_000, 1_010, 1_010, 1_010, 1_020, 1_030, 1_030, 1_040, 1_050, 1_060]
"""The times of offsets 0 to 9. Some are equal."""
END = len(STAMPS)


class State(NamedTuple):
    """A log, and the resolver of a gateway that reads it."""

    log: MemoryLog
    resume_resolver: ResumeResolver


async def state(
    *, stamps: list[int] = STAMPS, oldest: int = 0, tail_from: int | None = None, ahead: int = 0
) -> State:
    """Return a log with records at these times, of which those from `oldest` on are kept.

    The tail begins at `tail_from`, or at the end if that is None. It lacks the `ahead` newest
    records.
    """
    log = MemoryLog()
    await log.create_topic("t", 1)
    records = [Record("t", b"{}", None, stamp, 0) for stamp in stamps]
    begin = len(stamps) - ahead if tail_from is None else tail_from
    if records[:begin]:
        await log.append(records[:begin])
    tails = Tails(log=log, bytes_max=10**6)
    await tails.refresh(["t"])
    if records[begin:]:
        await log.append(records[begin:])
    events = log.run(P).events[begin : len(stamps) - ahead]
    tails.append(P, [Frame(e) for e in events], len(stamps) - ahead)
    log.forget_before(P, oldest)
    history = History(log=log, block_bytes=60, bytes_max=10**6, metrics=Metrics())
    return State(log, ResumeResolver(log=log, history=history, tails=tails.by_partition))


tails_from = pytest.mark.parametrize("tail_from", [None, 0, 5, 9], ids="tail-from-{}".format)
"""Results must not depend on where the tail begins."""


@tails_from
@pytest.mark.parametrize("offset", range(END + 1))
async def test_an_id_of_this_log_resumes_at_its_offset(tail_from: int | None, offset: int) -> None:
    _, resume_resolver = await state(tail_from=tail_from)
    before = STAMPS[offset - 1] if offset else 0
    found = await resume_resolver.resume(PartitionCursor(P, offset, before))
    assert found == Resumed(offset, before)


@tails_from
@pytest.mark.parametrize("offset", range(1, END + 1))
async def test_an_offset_without_time_gets_the_time_of_the_previous_record(
    tail_from: int | None, offset: int
) -> None:
    _, resume_resolver = await state(tail_from=tail_from)
    found = await resume_resolver.resume(PartitionCursor(P, offset, None))
    assert (found.offset, found.gap) == (offset, None)
    known = STAMPS[offset - 1]
    assert found.timestamp_ms in (known, 0), "the time must find this offset or an earlier one"


@tails_from
@pytest.mark.parametrize("offset", [1, 4, 5, 6, 9, 10])
async def test_an_id_of_another_log_resumes_at_its_time(tail_from: int | None, offset: int) -> None:
    """Another cluster has the same events at other offsets."""
    _, resume_resolver = await state(tail_from=tail_from)
    stamp = next(s for s in (1_030, 1_040) if s != STAMPS[offset - 1])
    found = await resume_resolver.resume(PartitionCursor(P, offset, stamp))
    assert found == Resumed(STAMPS.index(stamp), stamp)


@tails_from
async def test_an_id_of_another_log_repeats_all_events_of_its_millisecond(
    tail_from: int | None,
) -> None:
    _, resume_resolver = await state(tail_from=tail_from)
    found = await resume_resolver.resume(PartitionCursor(P, 9, 1_010))
    assert found == Resumed(1, 1_010)


@tails_from
async def test_an_id_before_all_kept_records_is_a_gap(tail_from: int | None) -> None:
    """The topic was recreated, or this cluster keeps fewer records."""
    _, resume_resolver = await state(tail_from=tail_from)
    found = await resume_resolver.resume(PartitionCursor(P, 7, 500))
    assert found == Resumed(0, 500, Gap(P, 7, Bounds(0, END), 0, "other_log"))


@tails_from
async def test_an_id_after_all_kept_records_waits_at_the_end(
    tail_from: int | None,
) -> None:
    _, resume_resolver = await state(tail_from=tail_from)
    found = await resume_resolver.resume(PartitionCursor(P, 7, 2_000))
    assert (found.offset, found.gap) == (END, None)


@pytest.mark.parametrize("tail_from", [None, 5, 9])
@pytest.mark.parametrize("stamp", [None, 0, 1_000, 1_010])
async def test_an_offset_below_the_oldest_is_a_gap(
    tail_from: int | None, stamp: int | None
) -> None:
    _, resume_resolver = await state(tail_from=tail_from, oldest=4)
    found = await resume_resolver.resume(PartitionCursor(P, 2, stamp))
    assert found.offset == 4
    assert found.gap == Gap(P, 2, Bounds(4, END), 4, "retention")


@tails_from
async def test_an_offset_at_the_oldest_record_is_no_gap(tail_from: int | None) -> None:
    _, resume_resolver = await state(tail_from=tail_from, oldest=4)
    found = await resume_resolver.resume(PartitionCursor(P, 4, STAMPS[3]))
    assert (found.offset, found.gap) == (4, None)


async def test_an_emptied_partition_is_a_gap_but_its_end_is_not() -> None:
    _, resume_resolver = await state(oldest=END)
    gone = await resume_resolver.resume(PartitionCursor(P, 2, 1_010))
    assert gone.gap == Gap(P, 2, Bounds(END, END), END, "retention")
    assert await resume_resolver.resume(PartitionCursor(P, END, STAMPS[-1])) == Resumed(
        END, STAMPS[-1]
    )


async def test_an_old_offset_with_a_late_time_is_of_another_log() -> None:
    later = [stamp + HOUR_MS * (n >= 4) for n, stamp in enumerate(STAMPS)]
    _, resume_resolver = await state(stamps=later, oldest=4)
    stamp = later[7] + 2 * HOUR_MS
    found = await resume_resolver.resume(PartitionCursor(P, 2, stamp))
    assert (found.offset, found.gap) == (END, None)


@pytest.mark.parametrize("offset", [END + 1, END + 500, 10**20])
async def test_an_offset_beyond_the_end_resumes_at_its_time(offset: int) -> None:
    _, resume_resolver = await state()
    assert await resume_resolver.resume(PartitionCursor(P, offset, 1_030)) == Resumed(5, 1_030)
    early = await resume_resolver.resume(PartitionCursor(P, offset, 900))
    assert early == Resumed(0, 900, Gap(P, offset, Bounds(0, END), 0, "other_log"))


@pytest.mark.parametrize("stamp", [None, 5_000])
async def test_an_offset_beyond_the_end_without_time_is_a_gap(stamp: int | None) -> None:
    _, resume_resolver = await state()
    found = await resume_resolver.resume(PartitionCursor(P, END + 5, stamp))
    assert found == Resumed(END, STAMPS[-1], Gap(P, END + 5, Bounds(0, END), END, "beyond_end"))


async def test_an_offset_beyond_the_tail_but_in_the_log_is_no_gap() -> None:
    _, resume_resolver = await state(ahead=3)
    found = await resume_resolver.resume(PartitionCursor(P, END - 1, STAMPS[-2]))
    assert found == Resumed(END - 1, STAMPS[-2])


async def test_offset_names_of_librdkafka_are_accepted() -> None:
    _, resume_resolver = await state(oldest=2)
    assert await resume_resolver.resume(PartitionCursor(P, LATEST, None)) == Resumed(
        END, STAMPS[-1]
    )
    assert (await resume_resolver.resume(PartitionCursor(P, EARLIEST, None))).offset == 2
    assert await resume_resolver.resume(PartitionCursor(P, -2003, None)) == Resumed(7, STAMPS[6])
    assert (await resume_resolver.resume(PartitionCursor(P, -2099, None))).offset == 2
    assert (await resume_resolver.resume(PartitionCursor(P, -2000, None))).offset == END


async def test_a_time_resumes_at_its_first_record_or_the_end() -> None:
    _, resume_resolver = await state()
    assert await resume_resolver.resume(PartitionCursor(P, None, 1_010)) == Resumed(1, 1_010)
    assert await resume_resolver.resume(PartitionCursor(P, None, 1_011)) == Resumed(4, 1_011)
    assert await resume_resolver.resume(PartitionCursor(P, None, 0)) == Resumed(0, 0)
    assert await resume_resolver.resume(PartitionCursor(P, None, 9_999)) == Resumed(END, STAMPS[-1])


class _GrowingLog(MemoryLog):
    """A log that gets a record, also in the tail, before each `offset_at` returns."""

    tails: Tails

    async def offset_at(self, times: Mapping[Partition, int]) -> dict[Partition, int | None]:
        found = await super().offset_at(times)
        [placed] = await self.append([Record("t", b"{}", None, 5_000, 0)])
        self.tails.append(P, [Frame(self.run(P).events[-1])], placed.offset + 1)
        return found


@pytest.mark.parametrize(
    "cursor",
    [PartitionCursor(P, None, 4_000), PartitionCursor(P, 7, 4_000)],
    ids=["a-time", "beyond-the-end"],
)
async def test_a_record_appended_during_a_look_up_is_not_skipped(
    cursor: PartitionCursor,
) -> None:
    log = _GrowingLog()
    await log.create_topic("t", 1)
    log.tails = tails = Tails(log=log, bytes_max=10**6)
    await tails.refresh(["t"])
    history = History(log=log, block_bytes=60, bytes_max=10**6, metrics=Metrics())
    resolver = ResumeResolver(log=log, history=history, tails=tails.by_partition)
    assert (await resolver.resume(cursor)).offset == 0


async def test_an_empty_partition_resumes_at_its_end() -> None:
    _, resume_resolver = await state(stamps=[])
    assert (await resume_resolver.resume(PartitionCursor(P, 0, 77))).offset == 0
    assert (await resume_resolver.resume(PartitionCursor(P, LATEST, None))).offset == 0
    assert (await resume_resolver.resume(PartitionCursor(P, None, 5))).offset == 0
    gone = await resume_resolver.resume(PartitionCursor(P, 7, None))
    assert (gone.offset, gone.gap and gone.gap.cause) == (0, "beyond_end")


async def test_records_in_the_tail_are_not_lost() -> None:
    _, resume_resolver = await state(tail_from=0, oldest=4)
    assert await resume_resolver.resume(PartitionCursor(P, 2, STAMPS[1])) == Resumed(2, STAMPS[1])


async def test_cursors_within_the_tail_are_near() -> None:
    _, resume_resolver = await state(tail_from=5)
    near = {o for o in range(-1, END + 3) if resume_resolver.is_near(PartitionCursor(P, o, None))}
    assert near == {LATEST, *range(6, END + 1)}
    assert not resume_resolver.is_near(PartitionCursor(P, None, 5))


async def test_holes_before_an_offset_do_not_make_it_another_log() -> None:
    log, resume_resolver = await state()
    for offset in (5, 6):
        log.punch_hole(P, offset)
    found = await resume_resolver.resume(PartitionCursor(P, 7, STAMPS[4]))
    assert (found.offset, found.gap) == (7, None)


def test_a_gap_has_the_requested_and_available_offsets() -> None:
    document = gap_document([Gap(P, 2, Bounds(4, 9), 4, "retention")])
    assert document["partitions"] == [
        {
            "topic": "t",
            "partition": 0,
            "requested": 2,
            "available": {"oldest": 4, "end": 9},
            "resumed": 4,
            "cause": "retention",
        }
    ]
    assert "message" in document


async def test_an_id_at_the_end_of_an_emptied_log_is_no_gap() -> None:
    """The id is of another log, and this log has no record that could be missing."""
    _, resume_resolver = await state(oldest=END)
    found = await resume_resolver.resume(PartitionCursor(P, END, 5_000))
    assert (found.offset, found.gap) == (END, None)
