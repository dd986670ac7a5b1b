"""No partition keeps the others from slots, and each finds room at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.event import Partition
from eventstreams.propagation.sharing import FairQueue, FairRoom
from tests.propagation.stage import PATIENCE_S, Stage, event, partition, running, write_rules

PARTITIONS = st.builds(Partition, st.sampled_from("abc"), st.integers(0, 2))


@given(st.lists(PARTITIONS))
def test_topics_and_then_their_partitions_take_turns(appended: list[Partition]) -> None:
    queue: FairQueue[tuple[Partition, int]] = FairQueue()
    for n, each in enumerate(appended):
        queue.append(each, (each, n))
    left = Counter(appended)
    served: Counter[Any] = Counter()
    numbers: dict[Partition, int] = {}
    while queue:
        waiting = {each for each, count in left.items() if count}
        taken, number = queue.popleft()
        for rival in waiting:
            key, its_key = (taken.topic, rival.topic)
            if key != its_key:
                assert served[key] <= served[its_key]
            else:
                assert served[taken] <= served[rival]
        assert numbers.get(taken, -1) < number, "items of a partition keep their order"
        numbers[taken] = number
        left[taken] -= 1
        served[taken] += 1
        served[taken.topic] += 1
        assert len(queue) == left.total()
        assert queue.length_of(taken) == left[taken]
    with pytest.raises(IndexError):
        queue.popleft()


@given(st.lists(PARTITIONS), PARTITIONS)
def test_removing_a_partition_leaves_the_others(
    appended: list[Partition], removed: Partition
) -> None:
    queue: FairQueue[Partition] = FairQueue()
    for each in appended:
        queue.append(each, each)
    assert queue.remove(removed) == [removed] * appended.count(removed)
    rest = [queue.popleft() for _ in range(len(queue))]
    assert sorted(rest) == sorted(each for each in appended if each != removed)


@given(st.integers(0, 40), st.sets(PARTITIONS, min_size=1), st.data())
def test_a_partition_below_its_part_always_finds_room(
    total: int, partitions: set[Partition], data: st.DataObject
) -> None:
    room = FairRoom(total)
    room.share(partitions)
    part = total // (2 * len(partitions))
    used: Counter[Partition] = Counter()
    for each in data.draw(st.lists(st.sampled_from(sorted(partitions)))):
        if used[each] and data.draw(st.booleans()):
            room.take(each, -1)
            used[each] -= 1
        elif room.is_free_for(each):
            room.take(each, 1)
            used[each] += 1
        assert room.used == used.total() <= total
        assert all(room.is_free_for(one) for one in partitions if used[one] < part)


def test_one_partition_alone_has_the_whole_room() -> None:
    room = FairRoom(10)
    room.share([partition("a")])
    for _ in range(10):
        assert room.is_free_for(partition("a"))
        room.take(partition("a"), 1)
    assert not room.is_free_for(partition("a"))


def test_what_a_lost_partition_uses_counts_until_it_is_returned() -> None:
    room = FairRoom(10)
    room.share([partition("a"), partition("b")])
    room.take(partition("a"), 6)
    room.share([partition("b")])
    room.take(partition("b"), 4)
    assert not room.is_free_for(partition("b"))
    room.take(partition("a"), -6)
    assert room.is_free_for(partition("b"))


# In a rule.


def rules(tmp_path: Path, more: str) -> Any:
    text = (
        "service: s\nrules:\n  r:\n    topics: [a, b]\n"
        "    exec: {method: post, uri: 'http://x/{message.meta.stream}'}\n"
    )
    return write_rules(tmp_path, text + "".join(f"    {line}\n" for line in more.splitlines()))


async def begun(stage: Stage, topic: str, count: int) -> None:
    """Wait until so many events of a topic are in flight."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            [state] = stage.service.state()["rules"]
            if state["partitions"][f"{topic}/0"]["in_flight"] >= count:
                return
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_backlog_of_one_topic_delays_another_by_one_event(tmp_path: Path) -> None:
    async with running(rules(tmp_path, "concurrency: 2\ndedupe: false")) as stage:
        stage.target.hold()
        await stage.put("a", *[event("a")] * 300)
        await stage.target.received(2)
        await begun(stage, "a", 4)
        await stage.put("b", event("b"))
        await begun(stage, "b", 1)
        stage.target.release()
        await stage.idle()
        paths = [call.path for call in stage.target.calls]
        assert len(paths) == 301
        assert paths.index("/b") <= 4


@pytest.mark.anyio
@pytest.mark.parametrize("limit", ["waiting_max: 40", "concurrency: 1\nwaiting_max: 40"])
async def test_delayed_events_of_one_topic_leave_room_for_another(
    tmp_path: Path, limit: str
) -> None:
    async with running(rules(tmp_path, f"dedupe: false\nreenqueue_delay: 100\n{limit}")) as stage:
        later = event("a") | {"delay_until": "2023-11-14T22:14:20Z"}
        await stage.put("a", *[later] * 100)
        await begun(stage, "a", 10)
        await stage.put("b", *[event("b")] * 50)
        await stage.target.received(50)
        assert {call.path for call in stage.target.calls} == {"/b"}
        [state] = stage.service.state()["rules"]
        assert state["waiting"] < 40
        for _ in range(4):
            stage.clock.advance(60_000)
            await stage.idle()
        assert Counter(call.path for call in stage.target.calls) == {"/a": 100, "/b": 50}
