"""Translates the frames of one connection to records of our log. Pure.

The bytes of an event are not changed. Its `meta` and the id of its frame contain its place in the
upstream's log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import orjson

from eventstreams.errors import RelayFault
from eventstreams.model.event import Partition, Record
from eventstreams.model.gap_marker import gap_record
from eventstreams.model.position import PartitionCursor
from eventstreams.model.sse import SseBytes
from eventstreams.model.timestamp import parse_timestamp
from eventstreams.relay.progress import Place, Progress, entries_of
from eventstreams.relay.routes import Routes

CAUGHT_UP, GAP, ERROR, MESSAGE = "caught-up", "gap", "error", "message"
_CANARY = "canary"
_SHOWN_MAX = 200
_OFFSET_MAX = 2**63 - 2
"""Offsets are signed 64-bit integers, and the next offset must fit as well."""
_PARTITION_MAX = 2**31 - 1


class Tally(NamedTuple):
    """The number of frames by their outcome."""

    events: int = 0
    duplicates: int = 0
    canaries: int = 0
    """Canary events of the upstream, which are dropped."""
    gaps: int = 0
    newest_ms: int | None = None
    """The timestamp of the newest event, in ms."""

    def plus(self, other: Tally) -> Tally:
        times = [t for t in (self.newest_ms, other.newest_ms) if t is not None]
        return Tally(
            self.events + other.events,
            self.duplicates + other.duplicates,
            self.canaries + other.canaries,
            self.gaps + other.gaps,
            max(times, default=None),
        )


class Translation:
    """Translates frames, and advances `progress`, a copy, with every event."""

    def __init__(
        self,
        *,
        progress: Progress,
        routes: Routes,
        partitions: Mapping[str, int],
        keeps_canaries: bool,
        is_filtered: bool,
    ) -> None:
        """Set the collaborators.

        `partitions` is the number of partitions of each of our topics. With `is_filtered`, the
        upstream omits events, so holes in the offsets are not gaps.
        """
        self._progress = progress
        self._routes = routes
        self._partitions = partitions
        self._keeps_canaries = keeps_canaries
        self._is_filtered = is_filtered
        self._seen: set[Partition] = set()
        self._last: Mapping[Partition, PartitionCursor] = {}
        self.tally = Tally()

    def take_tally(self) -> Tally:
        """Return the counts since the previous call."""
        taken, self.tally = self.tally, Tally()
        return taken

    def records(self, frame: SseBytes) -> Iterable[Record]:
        """Return the records for a `message` or `gap` frame. Raises RelayFault."""
        if frame.event == GAP:
            return self._gap(frame)
        return self._event(frame)

    def _event(self, frame: SseBytes) -> list[Record]:
        meta = _meta(frame.data)
        marks = entries_of(frame.id)
        place = self._place(meta, marks)
        self._last = marks
        if not self._progress.is_new(place):
            self.tally = self.tally._replace(duplicates=self.tally.duplicates + 1)
            return []
        topic = self._routes.topic(_text(meta.get("stream")), place.partition.topic)
        records = self._jump(place)
        self._progress.take(place)
        if not self._keeps_canaries and meta.get("domain") == _CANARY:
            self.tally = self.tally._replace(canaries=self.tally.canaries + 1)
            return records
        time_ms = place.timestamp_ms
        self.tally = self.tally.plus(Tally(events=1, newest_ms=time_ms))
        number = place.partition.number % self._partitions[topic]
        return [*records, Record(topic, frame.data, timestamp_ms=time_ms, partition=number)]

    def _place(self, meta: dict[str, Any], marks: Mapping[Partition, PartitionCursor]) -> Place:
        topic, number = meta.get("topic"), _partition(meta.get("partition"))
        if isinstance(topic, str) and number is not None:
            partition = Partition(topic, number)
        else:
            partition = self._moved(marks)
        mark = marks.get(partition)
        offset = _offset(meta.get("offset"))
        time_ms: int | None = None
        is_exact = False
        if mark is not None and mark.offset is not None and mark.offset >= 0:
            if offset not in (None, mark.offset - 1):
                raise RelayFault(
                    f"an event names {topic}/{number} at {offset} as its place, but its id names "
                    f"{mark.offset} as the next offset"
                )
            offset, time_ms, is_exact = mark.offset - 1, mark.timestamp_ms or None, True
        elif mark is not None and mark.timestamp_ms:
            time_ms = mark.timestamp_ms - 1  # Wikimedia's gateways send the time of the next record
        if time_ms is None and isinstance(meta.get("dt"), str):
            time_ms = parse_timestamp(meta["dt"])
        return Place(partition, offset, time_ms, is_exact)

    def _moved(self, marks: Mapping[Partition, PartitionCursor]) -> Partition:
        """Return the partition of an event without a place in `meta`, by comparing ids."""
        moved = [p for p, mark in marks.items() if self._before(p) != mark.offset]
        if len(moved) != 1:
            raise RelayFault(
                "an event has no meta.topic and meta.partition, and its id does not give its place"
            )
        return moved[0]

    def _before(self, partition: Partition) -> int | None:
        if partition in self._last:
            return self._last[partition].offset
        reached = self._progress.reached.get(partition)
        return None if reached is None else reached.next

    def _jump(self, place: Place) -> list[Record]:
        """Return gap markers if an upstream that reports no gaps resumed later than it should."""
        is_first = place.partition not in self._seen
        self._seen.add(place.partition)
        skipped = self._progress.skipped(place)
        if not is_first or place.is_exact or self._is_filtered or not skipped:
            return []
        document = {
            "message": "The upstream resumed later than requested, so events are missing",
            "partitions": [{**place.partition._asdict(), "skipped": skipped}],
        }
        return self._marked([place.partition], document)

    def _gap(self, frame: SseBytes) -> list[Record]:
        try:
            document: Any = orjson.loads(frame.data)
        except orjson.JSONDecodeError as error:
            raise RelayFault(f"a gap event is not JSON: {error}") from error
        if frame.id:
            self._last = entries_of(frame.id)
        partitions: list[Partition] = []
        for each in _list(_fields(document).get("partitions")):
            partition, resumed = _gap_place(_fields(each))
            if partition is None:
                continue
            partitions.append(partition)
            if resumed is not None:
                self._progress.resume_at(partition, resumed)
        return self._marked(partitions, document)

    def _marked(self, partitions: list[Partition], document: Any) -> list[Record]:
        """Return a gap marker for each of our partitions in which events may be missing."""
        homes: dict[tuple[str, int], None] = {}
        for partition in partitions:
            for topic in self._routes.topics_of_gap(partition):
                homes[topic, partition.number % self._partitions[topic]] = None
        if not partitions:
            homes = {(t, n): None for t in self._routes.topics for n in range(self._partitions[t])}
        self.tally = self.tally._replace(gaps=self.tally.gaps + 1)
        return [gap_record(topic, number, document) for topic, number in homes]


def _meta(data: bytes) -> dict[str, Any]:
    """Return the `meta` of an event, or an empty object if there is none."""
    try:
        document: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = _with_care(data)
    return _fields(_fields(document).get("meta"))


def _fields(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one if the value is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _with_care(data: bytes) -> Any:
    """Parse JSON that the fast parser refuses, such as unpaired surrogates. Raises RelayFault."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        shown = data[:_SHOWN_MAX].decode("utf-8", "backslashreplace")
        raise RelayFault(f"an event is not JSON in UTF-8: {error}: {shown}") from error


def _gap_place(fields: dict[str, Any]) -> tuple[Partition | None, int | None]:
    """Return the partition of a gap event, and the offset at which the upstream resumes."""
    topic, number, resumed = (
        fields.get("topic"),
        _partition(fields.get("partition")),
        fields.get("resumed"),
    )
    if not isinstance(topic, str) or number is None:
        return None, None
    return Partition(topic, number), _offset(resumed)


def _offset(value: Any) -> int | None:
    """Return an offset, or None if there is none. Raises RelayFault if it is out of range."""
    return _number(value, "offset", _OFFSET_MAX)


def _partition(value: Any) -> int | None:
    """Return the number of a partition, like `_offset`."""
    return _number(value, "partition", _PARTITION_MAX)


def _number(value: Any, what: str, most: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if not 0 <= value <= most:
        raise RelayFault(f"the upstream names the {what} {value}, which no log can have")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
