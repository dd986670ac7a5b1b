"""Where a reader stands, and the `id:` a client carries: the two are one thing, seen twice.

An id is a compact JSON array with one object per partition of the subscription:
`{"topic": T, "partition": P, "offset": N, "timestamp": MS}`. `offset` is the next one to read;
`timestamp` is that of the record before it, so that another log that holds the same events under
other offsets can find the place; after a gap that of the first record kept; 0 where not known. The
shape is upstream's (its ids are read by clients), the pair of offset and timestamp is ours: a
timestamp alone loses records that share one millisecond. `"epoch":E`, of the leader that wrote the
record before the offset, is there where a Kafka log says it: it tells the record from another one
that took its offset after the end of a partition was lost. Where the array would be longer than
JSON_BYTES_MAX, a token says the same in a tenth of that (token.py). Both are always read.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import orjson

from eventstreams.errors import InvalidAssignment
from eventstreams.model import token
from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.instant import parse_instant

JSON_BYTES_MAX = 1024
"""Longer ids go out as tokens: many proxies and servers take no header of more than 8 KiB."""
LATEST = -1
EARLIEST = -2
_TAIL_BASE = -2000  # librdkafka: -2000 - n means the last n events
_LATEST_ALIASES = (-1, -1000, -1001)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_ENTRY = b'%b%d,"timestamp":%d%b}'
_ENTRY_ALONE = _ENTRY + b"]"


class Mark(NamedTuple):
    """What a client says of one partition. At least one of `offset` and `timestamp_ms` is there.

    `offset` may be LATEST, EARLIEST or -2000 - n (n before the end), as librdkafka has them.
    """

    partition: Partition
    offset: int | None
    timestamp_ms: int | None
    epoch: int = NO_EPOCH
    """Of the leader that wrote the record before `offset`; NO_EPOCH where that is not known."""


class Position:
    """The next offset of every partition of a subscription, in that subscription's order.

    Immutable. `timestamps[i]` is that of the newest record before `offsets[i]`, in ms, or 0;
    `epochs[i]` the epoch of what is directly before it, or NO_EPOCH.
    """

    __slots__ = ("epochs", "offsets", "partitions", "timestamps")

    def __init__(
        self,
        partitions: tuple[Partition, ...],
        offsets: tuple[int, ...],
        timestamps: tuple[int, ...],
        epochs: tuple[int, ...] | None = None,
    ) -> None:
        assert len(partitions) == len(offsets) == len(timestamps)
        self.epochs = _unknown_epochs(len(partitions)) if epochs is None else epochs
        self.partitions = partitions
        self.offsets = offsets
        self.timestamps = timestamps

    def is_behind(self, ends: Sequence[int]) -> bool:
        """Whether there is anything left to read before these, in any partition."""
        return any(offset < end for offset, end in zip(self.offsets, ends, strict=True))

    def at(
        self, partition: Partition, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH
    ) -> Position:
        """This position with one partition moved."""
        i = self.partitions.index(partition)
        return Position(
            self.partitions,
            (*self.offsets[:i], offset, *self.offsets[i + 1 :]),
            (*self.timestamps[:i], timestamp_ms, *self.timestamps[i + 1 :]),
            (*self.epochs[:i], epoch, *self.epochs[i + 1 :]),
        )

    def encode(self) -> bytes:
        """The `id:` of this position: JSON, or a token where that would be too long."""
        as_json = self.encode_json()
        if len(as_json) <= JSON_BYTES_MAX:
            return as_json
        return self.encode_token() or as_json

    def encode_json(self) -> bytes:
        """ASCII, no spaces."""
        entries = b"".join(
            _ENTRY % (entry_prefix(p), offset, timestamp, _epoch_text(epoch))
            for p, offset, timestamp, epoch in zip(
                self.partitions, self.offsets, self.timestamps, self.epochs, strict=True
            )
        )
        return b"[%b]" % entries[1:]

    def encode_token(self) -> bytes | None:
        """None where there is more than a token may hold."""
        return token.encode(self.partitions, self.offsets, self.timestamps, self.epochs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        return self.partitions == other.partitions and self.offsets == other.offsets

    def __hash__(self) -> int:
        return hash((self.partitions, self.offsets))

    def __repr__(self) -> str:
        return f"Position({self.encode().decode()})"


@functools.lru_cache(maxsize=4096)
def entry_prefix(partition: Partition) -> bytes:
    """An entry of an id up to its offset, and the comma before it."""
    topic = json.dumps(partition.topic)  # ASCII, whatever the name
    return b',{"topic":%b,"partition":%d,"offset":' % (topic.encode(), partition.number)


@functools.lru_cache(maxsize=4096)
def _epoch_text(epoch: int) -> bytes:
    return b"" if epoch == NO_EPOCH else b',"epoch":%d' % epoch


@functools.lru_cache(maxsize=256)
def _unknown_epochs(count: int) -> tuple[int, ...]:
    return (NO_EPOCH,) * count


class Cursor:
    """A position on the move: makes the id after each event without encoding the rest anew."""

    __slots__ = (
        "_entries",
        "_entry",
        "_epochs",
        "_json_bytes",
        "_offsets",
        "_partitions",
        "_prefixes",
        "_timestamps",
        "_writer",
    )

    def __init__(self, position: Position) -> None:
        self._partitions = position.partitions
        self._offsets = list(position.offsets)
        self._timestamps = list(position.timestamps)
        self._epochs = list(position.epochs)
        # An id is all entries put together: the first one and the last bring the brackets.
        self._prefixes = prefixes = [entry_prefix(p) for p in position.partitions]
        if prefixes:
            prefixes[0] = b"[" + prefixes[0][1:]
        alone = len(prefixes) == 1
        self._entry = form = _ENTRY_ALONE if alone else _ENTRY
        self._entries = [
            form % (prefix, offset, timestamp, _epoch_text(epoch))
            for prefix, offset, timestamp, epoch in zip(
                prefixes, position.offsets, position.timestamps, position.epochs, strict=True
            )
        ]
        if not alone:
            self._entries.append(b"]")
        self._writer: token.Writer | None = None
        self._json_bytes = 0
        """Only kept where there is a writer."""

    def offset(self, index: int) -> int:
        return self._offsets[index]

    def pass_event(
        self, index: int, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH
    ) -> bytes:
        """Moves partition `index` past the event at `offset`, which a leader of `epoch` wrote.

        Returns the id to send with that event, in whichever form is due.
        """
        if self._writer is not None:
            self._move(index, offset + 1, timestamp_ms, epoch)
            return self._long_id()
        self._offsets[index] = offset + 1
        self._timestamps[index] = timestamp_ms
        self._epochs[index] = epoch
        entries = self._entries
        entries[index] = self._entry % (
            self._prefixes[index],
            offset + 1,
            timestamp_ms,
            _epoch_text(epoch),
        )
        position_id = b"".join(entries)
        if len(position_id) <= JSON_BYTES_MAX:
            return position_id
        self._writer = token.writer(self._partitions, self._offsets, self._timestamps, self._epochs)
        if self._writer is None:
            return position_id
        self._json_bytes = len(position_id)
        return self._writer.token()

    def pass_hole(self, index: int, offset: int, epoch: int = NO_EPOCH) -> None:
        """Moves to `offset` where the log has no events up to it; the timestamp stays.

        `epoch`: of what is directly before `offset`, where that is known.
        """
        self._move(index, offset, self._timestamps[index], epoch)

    def _move(self, index: int, offset: int, timestamp_ms: int, epoch: int) -> None:
        self._offsets[index] = offset
        self._timestamps[index] = timestamp_ms
        self._epochs[index] = epoch
        entry = self._entry % (self._prefixes[index], offset, timestamp_ms, _epoch_text(epoch))
        if self._writer is not None:
            self._json_bytes += len(entry) - len(self._entries[index])
            self._writer.move(index, offset, timestamp_ms, epoch)
        self._entries[index] = entry

    def _long_id(self) -> bytes:
        assert self._writer is not None
        if self._json_bytes <= JSON_BYTES_MAX:  # it has become shorter: times not known
            return b"".join(self._entries)
        return self._writer.token()

    def position(self) -> Position:
        return Position(
            self._partitions, tuple(self._offsets), tuple(self._timestamps), tuple(self._epochs)
        )


def parse_last_event_id(
    text: str, entries_max: int = token.PARTITIONS_MAX
) -> tuple[Mark | str, ...]:
    """Reads a Last-Event-ID in any form upstream takes; a bare string is a topic's name.

    Forms: an array of objects with `offset` or `timestamp` or both, an array of topic names, a
    JSON string "a,b", or a mixture; or a token. Raises InvalidAssignment.
    """
    if token.is_token(text):
        said = tuple(Mark(*entry) for entry in token.parse_token(text, entries_max))
        _refuse_duplicates(said, text)
        return said
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidAssignment(
            f"Failed parsing Last-Event-ID as JSON: {error}",
            originalName="SyntaxError",
            last_event_id=text,
        ) from None
    if isinstance(document, str):
        document = document.split(",")
    if not isinstance(document, list) or not document:
        raise _invalid("Last-Event-ID must be a non-empty JSON array", document)
    entries = cast("list[Any]", document)
    if len(entries) > entries_max:
        message = f"Last-Event-ID has {len(entries)} entries; {entries_max} is the most"
        raise _invalid(message, None)
    marks = tuple(_entry(entry, entries) for entry in entries)
    _refuse_duplicates(marks, entries)
    return marks


def _refuse_duplicates(marks: Sequence[Mark | str], document: Any) -> None:
    seen: set[Partition | str] = set()
    for mark in marks:
        key = mark if isinstance(mark, str) else mark.partition
        if key in seen:
            name = key if isinstance(key, str) else f"{key.topic}/{key.number}"
            raise _invalid(f"{name} is named twice", document)
        seen.add(key)


def _entry(entry: Any, document: Any) -> Mark | str:
    if isinstance(entry, str):
        if not entry:
            raise _invalid("a topic name is empty", document)
        return entry
    if not isinstance(entry, dict):
        raise _invalid("each entry must be an object or a topic name", document)
    fields = cast("dict[str, Any]", entry)
    topic = fields.get("topic")
    number = _integer(fields.get("partition"))
    if not isinstance(topic, str) or not topic:
        raise _invalid("each entry needs a topic name", document)
    if number is None:
        raise _invalid(f"the entry of {topic} needs a partition number", document)
    offset = timestamp_ms = None
    if fields.get("offset") is not None:
        offset = _offset(fields["offset"])
        if offset is None:
            raise _invalid(f"the offset of {topic}/{number} is not an offset", document)
    if fields.get("timestamp") is not None:
        timestamp_ms = _timestamp(fields["timestamp"])
        if timestamp_ms is None:
            raise _invalid(f"the timestamp of {topic}/{number} is not a time", document)
        if offset is None and timestamp_ms in (LATEST, EARLIEST):  # as Kafka's ListOffsets
            offset, timestamp_ms = timestamp_ms, None
    if offset is None and timestamp_ms is None:
        raise _invalid(f"the entry of {topic}/{number} needs an offset or a timestamp", document)
    epoch = _epoch(fields.get("epoch"))
    if epoch is None:
        raise _invalid(f"the epoch of {topic}/{number} is not an epoch", document)
    return Mark(Partition(topic, number), offset, timestamp_ms, epoch)


def _integer(value: Any) -> int | None:
    """JSON has one kind of number: 5.0 and 1e20 are integers, 5.5 and true are not.

    What does not fit in 64 bits becomes the nearest that does: no log, and no encoder, has more.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return None
    return max(_INT64_MIN, min(value, _INT64_MAX))


def _epoch(value: Any) -> int | None:
    if value is None:
        return NO_EPOCH
    epoch = _integer(value)
    return epoch if epoch is not None and NO_EPOCH <= epoch <= EPOCH_MAX else None


def _offset(value: Any) -> int | None:
    offset = _integer(value)
    if offset is None or offset >= 0 or offset == EARLIEST or offset <= _TAIL_BASE:
        return offset
    return LATEST if offset in _LATEST_ALIASES else None


def _timestamp(value: Any) -> int | None:
    if isinstance(value, str):
        return parse_instant(value)
    return _integer(value)


def before_end(offset: int) -> int | None:
    """n where `offset` means "the last n events", else None."""
    return _TAIL_BASE - offset if offset <= _TAIL_BASE else None


def _invalid(message: str, document: Any) -> InvalidAssignment:
    try:
        orjson.dumps([document])  # the body of the error is one level more
    except orjson.JSONEncodeError:
        document = None  # it nests deeper than can be written: no echo
    return InvalidAssignment(message, originalName="Error", assignments=document)


def topics_of(marks: Sequence[Mark | str]) -> Iterator[str]:
    for mark in marks:
        yield mark if isinstance(mark, str) else mark.partition.topic
