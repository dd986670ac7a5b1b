"""Marks of clients against logs of every condition: where they go on, and what they are told."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from eventstreams.fanout.history import History
from eventstreams.fanout.resume import Gap, Resumed, Resumer, gap_document
from eventstreams.fanout.tails import Tails
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Bounds, Partition, Record
from eventstreams.model.frame import Frame
from eventstreams.model.position import EARLIEST, LATEST, Mark

pytestmark = pytest.mark.anyio

P = Partition("t", 0)
HOUR_MS = 3_600_000
STAMPS = [1_000, 1_010, 1_010, 1_010, 1_020, 1_030, 1_030, 1_040, 1_050, 1_060]
"""Of offsets 0 to 9; siblings share a millisecond."""
END = len(STAMPS)


class State(NamedTuple):
    """How a gateway came to know the log: all of it read at start, or followed from `tail_from`."""

    log: MemoryLog
    resumer: Resumer


async def state(
    *, stamps: list[int] = STAMPS, oldest: int = 0, tail_from: int | None = None, ahead: int = 0
) -> State:
    """`ahead` records are in the log that the tail has not seen yet."""
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
    return State(log, Resumer(log=log, history=history, tails=tails.by_partition))


tails_from = pytest.mark.parametrize("tail_from", [None, 0, 5, 9], ids="tail-from-{}".format)
"""Where the tail began must not matter."""


@tails_from
@pytest.mark.parametrize("offset", range(END + 1))
async def test_an_id_of_this_log_goes_on_where_it_stands(
    tail_from: int | None, offset: int
) -> None:
    _, resumer = await state(tail_from=tail_from)
    before = STAMPS[offset - 1] if offset else 0
    found = await resumer.resume(Mark(P, offset, before))
    assert found == Resumed(offset, before)


@tails_from
@pytest.mark.parametrize("offset", range(1, END + 1))
async def test_an_offset_alone_learns_the_time_of_the_record_before_it(
    tail_from: int | None, offset: int
) -> None:
    _, resumer = await state(tail_from=tail_from)
    found = await resumer.resume(Mark(P, offset, None))
    assert (found.offset, found.gap) == (offset, None)
    known = STAMPS[offset - 1]
    assert found.timestamp_ms in (known, 0), "a time that finds this place or an earlier one"


@tails_from
@pytest.mark.parametrize("offset", [1, 4, 5, 6, 9, 10])
async def test_an_id_of_another_log_goes_on_at_its_time(tail_from: int | None, offset: int) -> None:
    """Another cluster holds the same events under other offsets."""
    _, resumer = await state(tail_from=tail_from)
    stamp = next(s for s in (1_030, 1_040) if s != STAMPS[offset - 1])
    found = await resumer.resume(Mark(P, offset, stamp))
    assert found == Resumed(STAMPS.index(stamp), stamp)


@tails_from
async def test_siblings_of_one_millisecond_are_all_sent_again_from_another_log(
    tail_from: int | None,
) -> None:
    _, resumer = await state(tail_from=tail_from)
    found = await resumer.resume(Mark(P, 9, 1_010))
    assert found == Resumed(1, 1_010)


@tails_from
async def test_where_all_that_is_kept_is_later_the_client_is_told(tail_from: int | None) -> None:
    """A topic made anew, or a cluster that does not reach back so far."""
    _, resumer = await state(tail_from=tail_from)
    found = await resumer.resume(Mark(P, 7, 500))
    assert found == Resumed(0, 500, Gap(P, 7, Bounds(0, END), 0, "other_log"))


@tails_from
async def test_where_all_that_is_kept_is_earlier_it_waits_at_the_end(
    tail_from: int | None,
) -> None:
    _, resumer = await state(tail_from=tail_from)
    found = await resumer.resume(Mark(P, 7, 2_000))
    assert (found.offset, found.gap) == (END, None)


@pytest.mark.parametrize("tail_from", [None, 5, 9])
@pytest.mark.parametrize("stamp", [None, 0, 1_000, 1_010])
async def test_below_the_oldest_kept_it_goes_on_there_and_says_so(
    tail_from: int | None, stamp: int | None
) -> None:
    _, resumer = await state(tail_from=tail_from, oldest=4)
    found = await resumer.resume(Mark(P, 2, stamp))
    assert found.offset == 4
    assert found.gap == Gap(P, 2, Bounds(4, END), 4, "retention")


@tails_from
async def test_at_the_oldest_kept_nothing_is_lost(tail_from: int | None) -> None:
    _, resumer = await state(tail_from=tail_from, oldest=4)
    found = await resumer.resume(Mark(P, 4, STAMPS[3]))
    assert (found.offset, found.gap) == (4, None)


async def test_all_forgotten_is_told_and_the_end_is_none() -> None:
    _, resumer = await state(oldest=END)
    gone = await resumer.resume(Mark(P, 2, 1_010))
    assert gone.gap == Gap(P, 2, Bounds(END, END), END, "retention")
    assert await resumer.resume(Mark(P, END, STAMPS[-1])) == Resumed(END, STAMPS[-1])


async def test_below_the_oldest_but_much_later_in_time_is_another_log() -> None:
    later = [stamp + HOUR_MS * (n >= 4) for n, stamp in enumerate(STAMPS)]
    _, resumer = await state(stamps=later, oldest=4)
    stamp = later[7] + 2 * HOUR_MS
    found = await resumer.resume(Mark(P, 2, stamp))
    assert (found.offset, found.gap) == (END, None)


@pytest.mark.parametrize("offset", [END + 1, END + 500, 10**20])
async def test_beyond_the_end_with_a_time_goes_on_at_its_time(offset: int) -> None:
    _, resumer = await state()
    assert await resumer.resume(Mark(P, offset, 1_030)) == Resumed(5, 1_030)
    early = await resumer.resume(Mark(P, offset, 900))
    assert early == Resumed(0, 900, Gap(P, offset, Bounds(0, END), 0, "other_log"))


@pytest.mark.parametrize("stamp", [None, 5_000])
async def test_beyond_the_end_without_a_place_waits_there_and_says_so(stamp: int | None) -> None:
    _, resumer = await state()
    found = await resumer.resume(Mark(P, END + 5, stamp))
    assert found == Resumed(END, STAMPS[-1], Gap(P, END + 5, Bounds(0, END), END, "beyond_end"))


async def test_ahead_of_the_tail_but_in_the_log_is_no_gap() -> None:
    _, resumer = await state(ahead=3)
    found = await resumer.resume(Mark(P, END - 1, STAMPS[-2]))
    assert found == Resumed(END - 1, STAMPS[-2])


async def test_the_words_of_librdkafka_are_understood() -> None:
    _, resumer = await state(oldest=2)
    assert await resumer.resume(Mark(P, LATEST, None)) == Resumed(END, STAMPS[-1])
    assert (await resumer.resume(Mark(P, EARLIEST, None))).offset == 2
    assert await resumer.resume(Mark(P, -2003, None)) == Resumed(7, STAMPS[6])
    assert (await resumer.resume(Mark(P, -2099, None))).offset == 2
    assert (await resumer.resume(Mark(P, -2000, None))).offset == END


async def test_a_time_finds_its_first_record_or_the_end() -> None:
    _, resumer = await state()
    assert await resumer.resume(Mark(P, None, 1_010)) == Resumed(1, 1_010)
    assert await resumer.resume(Mark(P, None, 1_011)) == Resumed(4, 1_011)
    assert await resumer.resume(Mark(P, None, 0)) == Resumed(0, 0)
    assert await resumer.resume(Mark(P, None, 9_999)) == Resumed(END, STAMPS[-1])


async def test_an_empty_partition_has_only_its_end() -> None:
    _, resumer = await state(stamps=[])
    assert (await resumer.resume(Mark(P, 0, 77))).offset == 0
    assert (await resumer.resume(Mark(P, LATEST, None))).offset == 0
    assert (await resumer.resume(Mark(P, None, 5))).offset == 0
    gone = await resumer.resume(Mark(P, 7, None))
    assert (gone.offset, gone.gap and gone.gap.cause) == (0, "beyond_end")


async def test_what_the_tail_still_holds_is_not_lost_though_the_log_forgot_it() -> None:
    _, resumer = await state(tail_from=0, oldest=4)
    assert await resumer.resume(Mark(P, 2, STAMPS[1])) == Resumed(2, STAMPS[1])


async def test_near_marks_need_no_turn() -> None:
    _, resumer = await state(tail_from=5)
    near = {o for o in range(-1, END + 3) if resumer.is_near(Mark(P, o, None))}
    assert near == {LATEST, *range(6, END + 1)}
    assert not resumer.is_near(Mark(P, None, 5))


async def test_holes_before_an_offset_do_not_make_it_another_log() -> None:
    log, resumer = await state()
    for offset in (5, 6):
        log.punch_hole(P, offset)
    found = await resumer.resume(Mark(P, 7, STAMPS[4]))
    assert (found.offset, found.gap) == (7, None)


def test_a_gap_says_for_each_partition_what_was_asked_and_what_is_there() -> None:
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
