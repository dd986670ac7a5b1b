"""Records the progress of a relay, in the coordinates of its upstream. Pure.

Ids are those of EventStreams, an array of `{topic, partition, offset | timestamp}`, or tokens of
this gateway. Ours contain the next offset of every partition, so resuming with one repeats nothing.
Those of Wikimedia's gateways contain a time for most partitions, one millisecond after the last
event, and `-1` for a partition without an event yet. Resuming with such an id unchanged would lose
events with the same millisecond as the last one, and events of partitions that were quiet. A relay
therefore requests a time one millisecond earlier, or that of its start, and recognises repeated
events by the offsets in their `meta`.

Such a partition may later be served by another cluster, with other offsets. An offset that goes
back while its time is newer than any before is therefore no repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self, cast

import orjson

from eventstreams.errors import InvalidAssignment, RelayFault
from eventstreams.model import cursor_token
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import PartitionCursor
from eventstreams.model.stop_condition import unwrap

_VERSION = 1
_ENTRIES_MAX = 10_000
"""The maximum number of partitions of an id: more than any gateway serves in one stream."""


class Place(NamedTuple):
    """The place of an event in the upstream's log."""

    partition: Partition
    offset: int | None
    """None if neither the id nor the event contains it."""
    timestamp_ms: int | None
    is_exact: bool
    """Whether the id contains offsets; such an upstream reports lost events."""


class Reached(NamedTuple):
    """The progress in one partition of the upstream."""

    next: int
    """The offset of the next event."""
    timestamp_ms: int
    """The newest time of any event so far; 0 if none had one."""


class Progress:
    """The mutable progress of a relay. `streams`, `since_ms` and `began_ms` never change."""

    def __init__(
        self,
        *,
        streams: Sequence[str],
        since_ms: int | None,
        began_ms: int,
        last_event_id: str = "",
        reached: dict[Partition, Reached] | None = None,
    ) -> None:
        """Begin. `began_ms` is the time of the relay's first start, by its own clock."""
        self.streams = tuple(streams)
        self.since_ms = since_ms
        self.began_ms = began_ms
        self.last_event_id = last_event_id
        self.reached = reached or {}

    def is_new(self, place: Place) -> bool:
        """Return whether our log does not have this event yet."""
        reached = self.reached.get(place.partition)
        if reached is None or place.offset is None or place.offset >= reached.next:
            return True
        return place.timestamp_ms is not None and place.timestamp_ms > reached.timestamp_ms

    def skipped(self, place: Place) -> int:
        """Return how many offsets are missing before this event if it is appended next."""
        reached = self.reached.get(place.partition)
        if reached is None or place.offset is None:
            return 0
        return max(0, place.offset - reached.next)

    def take(self, place: Place) -> None:
        """Record that the new event at this place is now in our log."""
        if place.offset is not None:
            before = self.reached.get(place.partition, Reached(0, 0)).timestamp_ms
            time_ms = max(before, place.timestamp_ms or 0)
            self.reached[place.partition] = Reached(place.offset + 1, time_ms)

    def resume_at(self, partition: Partition, offset: int) -> None:
        """Record that the upstream has resumed at this offset."""
        before = self.reached.get(partition, Reached(0, 0))
        self.reached[partition] = Reached(offset, before.timestamp_ms)

    def move_to(self, event_id: str) -> None:
        """Record an id from the upstream; an empty one is ignored. Raises RelayFault."""
        if event_id and event_id != self.last_event_id:
            entries_of(event_id)
            self.last_event_id = event_id

    def request_id(self) -> str:
        """Return the Last-Event-ID to resume with; empty if there is none yet."""
        if not self.last_event_id or cursor_token.is_token(unwrap(self.last_event_id)[1]):
            return self.last_event_id
        entries = _array(self.last_event_id)
        if all(_has_offset(entry) for entry in entries):
            return self.last_event_id
        return orjson.dumps([self._requested(entry) for entry in entries]).decode()

    def _requested(self, entry: dict[str, Any]) -> dict[str, Any]:
        if _has_offset(entry):
            return entry
        timestamp = entry.get("timestamp")
        if entry.get("offset") is not None or not isinstance(timestamp, int):
            timestamp = self.began_ms + 1
        where = {name: entry[name] for name in ("topic", "partition")}
        return {**where, "timestamp": max(0, timestamp - 1)}

    def encode(self) -> bytes:
        """Return the encoded state, for `decode`."""
        reached = [[*partition, *at] for partition, at in sorted(self.reached.items())]
        return orjson.dumps(
            {
                "version": _VERSION,
                "streams": self.streams,
                "since": self.since_ms,
                "began": self.began_ms,
                "id": self.last_event_id,
                "reached": reached,
            }
        )

    @classmethod
    def decode(cls, state: bytes) -> Self:
        """Return the progress of an encoded state. Raises RelayFault if it is invalid."""
        try:
            document: Any = orjson.loads(state)
            if document["version"] != _VERSION:
                raise ValueError(f"it has version {document['version']}")
            return cls(
                streams=document["streams"],
                since_ms=document["since"],
                began_ms=document["began"],
                last_event_id=document["id"],
                reached={
                    Partition(topic, number): Reached(following, time_ms)
                    for topic, number, following, time_ms in document["reached"]
                },
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RelayFault(f"the bookmark contains no progress of a relay: {error}") from error


def entries_of(event_id: str) -> dict[Partition, PartitionCursor]:
    """Return the entry of each partition in an id. Raises RelayFault."""
    try:
        marks = parse_last_event_id(unwrap(event_id)[1], _ENTRIES_MAX)
    except InvalidAssignment as error:
        shown = event_id if len(event_id) <= 80 else f"{event_id[:80]}…"
        raise RelayFault(
            f"the id {shown!r} of an event is not an id of EventStreams: {error}"
        ) from (error)
    return {mark.partition: mark for mark in marks if isinstance(mark, PartitionCursor)}


def _array(event_id: str) -> list[dict[str, Any]]:
    document: Any = orjson.loads(unwrap(event_id)[1])
    return [cast("dict[str, Any]", each) for each in document if isinstance(each, dict)]


def _has_offset(entry: dict[str, Any]) -> bool:
    offset = entry.get("offset")
    return isinstance(offset, int) and offset >= 0
