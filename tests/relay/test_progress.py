"""Whatever an upstream repeats after a disconnect, nothing is lost or repeated."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import RelayFault
from eventstreams.model.event import Event, Partition
from eventstreams.model.gap_marker import is_gap_marker
from eventstreams.model.position import Position
from eventstreams.model.sse import SseBytes
from eventstreams.relay.progress import Place, Progress, Reached
from eventstreams.relay.routes import Routes
from eventstreams.relay.translation import Translation
from tests.relay.scripted import CATALOGUE, entry, event

E, C = "eqiad.edits", "codfw.edits"
BEGAN = 1_000


def begun() -> Progress:
    return Progress(streams=["edits"], since_ms=None, began_ms=BEGAN)


class Sent(NamedTuple):
    topic: str
    offset: int
    time: int


class World:
    """Simulates an upstream with two partitions, like Wikimedia's gateways or ours."""

    def __init__(self, records: list[tuple[bool, int]], *, exact: bool) -> None:
        self.exact = exact
        self.topics: dict[str, list[int]] = {E: [], C: []}
        self.order: list[Sent] = []
        for is_first, time in records:
            times = self.topics[E if is_first else C]
            times.append(BEGAN + time)
            self.order.append(Sent(E if is_first else C, len(times) - 1, BEGAN + time))

    def starts(self, last_event_id: str) -> dict[str, int]:
        """Return where a connection with this id begins."""
        starts = dict.fromkeys(self.topics, 0)
        for each in json.loads(last_event_id or "[]"):
            times = self.topics[each["topic"]]
            if "offset" in each:
                assert each["offset"] >= 0, "the end, including later events"
                starts[each["topic"]] = each["offset"]
            else:
                found = (i for i, time in enumerate(times) if time >= each["timestamp"])
                starts[each["topic"]] = next(found, len(times))
        return starts

    def frames(self, last_event_id: str) -> list[SseBytes]:
        starts = self.starts(last_event_id)
        last: dict[str, dict[str, Any]] = {
            topic: entry(topic, offset=starts[topic] if self.exact else -1, timestamp=0)
            for topic in self.topics
        }
        for each in json.loads(last_event_id or "[]"):
            if not self.exact:
                last[each["topic"]] = entry(each["topic"], offset=starts[each["topic"]])
        frames: list[SseBytes] = []
        for topic, offset, time in self.order:
            if offset < starts[topic]:
                continue
            last[topic] = (
                entry(topic, offset=offset + 1, timestamp=time)
                if self.exact
                else entry(topic, timestamp=time + 1)
            )
            frames.append(
                SseBytes("message", event(topic, offset), json.dumps(list(last.values())))
            )
        return frames


@given(
    records=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=25),
    cuts=st.lists(st.integers(0, 12), max_size=6),
    exact=st.booleans(),
)
def test_events_arrive_once_and_in_order_wherever_connections_break(
    records: list[tuple[bool, int]], cuts: list[int], exact: bool
) -> None:
    world = World(records, exact=exact)
    state = begun().encode()
    got: list[tuple[str, int]] = []
    for cut in (*cuts, None):
        progress = Progress.decode(state)
        work = Translation(
            progress=progress,
            routes=Routes({"edits": "edits"}, CATALOGUE),
            partitions={E: 1, C: 1},
            keeps_canaries=True,
            is_filtered=False,
        )
        for frame in world.frames(progress.request_id())[:cut]:
            for record in work.records(frame):
                as_event = Event(Partition(record.topic, 0), 0, 0, record.value, record.key)
                assert not is_gap_marker(as_event)
                assert record.value is not None
                got.append((record.topic, json.loads(record.value)["n"]))
            progress.move_to(frame.id)
        state = progress.encode()
    for topic, times in world.topics.items():
        assert [n for where, n in got if where == topic] == list(range(len(times)))


places = st.builds(Reached, st.integers(0, 2**62), st.integers(0, 2**50))


@given(
    reached=st.dictionaries(st.builds(Partition, st.text(max_size=8), st.integers(0, 99)), places),
    since=st.none() | st.integers(0, 2**45),
)
def test_a_state_survives_encoding(reached: dict[Partition, Reached], since: int | None) -> None:
    progress = Progress(
        streams=["a", "b"], since_ms=since, began_ms=5, last_event_id="[1]", reached=reached
    )
    again = Progress.decode(progress.encode())
    assert vars(again) == vars(progress)


@pytest.mark.parametrize("state", [b"", b"{}", b"[]", b'{"version":2}', b"\xff"])
def test_an_invalid_state_is_refused(state: bytes) -> None:
    with pytest.raises(RelayFault, match="contains no progress of a relay"):
        Progress.decode(state)


def test_ids_with_offsets_and_tokens_are_returned_unchanged() -> None:
    position = Position((Partition(E, 0),), (7,), (9,))
    token = position.encode_token()
    assert token is not None
    bounded = '{"left":3,"id":[{"topic":"eqiad.edits","partition":0,"offset":7}]}'
    for event_id in (position.encode().decode(), token.decode(), bounded):
        progress = begun()
        progress.move_to(event_id)
        assert progress.request_id() == event_id


def test_a_lower_offset_is_new_only_with_a_newer_time() -> None:
    progress = begun()
    here = Partition(E, 0)
    progress.take(Place(here, 9, 50, False))
    assert not progress.is_new(Place(here, 9, 50, False))
    assert not progress.is_new(Place(here, 3, 50, False))
    assert not progress.is_new(Place(here, 3, None, True))
    assert progress.is_new(Place(here, 3, 51, False))
    assert progress.is_new(Place(here, 10, 2, True))
