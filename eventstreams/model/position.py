"""Defines the positions of readers. Encoded, a position is the `id:` of an event.

An id is a compact JSON array with one object per partition of the subscription:
`{"topic": T, "partition": P, "offset": N, "timestamp": MS}`. `offset` is the next one to read.
`timestamp` is that of the record before it, so that another log with the same events at other
offsets can find the place; after a gap, that of the first record kept; 0 if it is not known. The
form is Wikimedia's, because clients read ids. Offset and timestamp together are ours: a timestamp
alone loses records that share one millisecond. `"epoch":E` is the epoch of the leader that wrote
the record before the offset, if the log is Kafka and knows it: it distinguishes the record from
another one at the same offset, written after the end of the partition was lost. If the array would
be longer than JSON_BYTES_MAX, the id is a token of about a tenth of that size (cursor_token.py).
Both forms are always accepted.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from eventstreams.model import cursor_token
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.steps import finished

JSON_BYTES_MAX = 1024
"""Longer ids are sent as tokens: many proxies and servers reject headers of more than 8 KiB."""
_LONG = 20
"""As JSON, an id of this many partitions or more always exceeds JSON_BYTES_MAX."""
_STEP = 256
"""How many entries are encoded in one step, which takes about a millisecond."""
LATEST = -1
EARLIEST = -2
TAIL_BASE = -2000  # librdkafka: -2000 - n means the last n events
_ENTRY = b'%b%d,"timestamp":%d%b}'
_DIGITS_MAX = 20
_ENTRY_ALONE = _ENTRY + b"]"


class PartitionCursor(NamedTuple):
    """One partition's entry of a client's id, with an offset, a timestamp or both.

    `offset` may be LATEST, EARLIEST or -2000 - n (n before the end), as in librdkafka.
    """

    partition: Partition
    offset: int | None
    timestamp_ms: int | None
    epoch: int = NO_EPOCH
    """The epoch of the leader that wrote the record before `offset`; NO_EPOCH if not known."""


class Position:
    """The next offset of every partition of a subscription, in that subscription's order.

    Immutable. `timestamps[i]` is the timestamp of the newest record before `offsets[i]` in ms, or
    0; `epochs[i]` is the epoch of the record directly before it, or NO_EPOCH.
    """

    __slots__ = ("_encoder", "epochs", "offsets", "partitions", "timestamps")

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
        self._encoder: cursor_token.TokenEncoder | None = None
        """Makes the tokens of many partitions. Creating an encoder takes long."""

    @property
    def is_long(self) -> bool:
        """Whether the id is a token, if the position fits in one, whatever the numbers."""
        return len(self.partitions) >= _LONG

    def is_behind(self, ends: Sequence[int]) -> bool:
        """Return whether any partition has offsets left to read before these ends."""
        assert len(ends) == len(self.offsets)
        return any(map(operator.lt, self.offsets, ends))

    def at(
        self, partition: Partition, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH
    ) -> Position:
        """Return this position with one partition moved."""
        i = self.partitions.index(partition)
        return Position(
            self.partitions,
            (*self.offsets[:i], offset, *self.offsets[i + 1 :]),
            (*self.timestamps[:i], timestamp_ms, *self.timestamps[i + 1 :]),
            (*self.epochs[:i], epoch, *self.epochs[i + 1 :]),
        )

    def encode(self) -> bytes:
        """Return the `id:` of this position: JSON, or a token if that would be too long."""
        return finished(self.encoding())

    def encoding(self) -> Generator[None, None, bytes]:
        """Encode as `encode`, in steps of a few milliseconds if there are many partitions."""
        if self.is_long:
            yield from self.prepare()
            if self._encoder is None:
                return (yield from self._encoding_json())
            return self._encoder.token()
        as_json = self.encode_json()
        if len(as_json) <= JSON_BYTES_MAX:
            return as_json
        return self.encode_token() or as_json

    def prepare(self) -> Generator[None]:
        """Do most of the work of encoding a long id, in steps."""
        if self._encoder is None and self.is_long:
            self._encoder = yield from cursor_token.writer(
                self.partitions, self.offsets, self.timestamps, self.epochs
            )

    def take_encoder(self) -> cursor_token.TokenEncoder | None:
        """Return the encoder of a long id, for a cursor that moves it on; None if there is none."""
        encoder, self._encoder = self._encoder, None
        return encoder

    def give_encoder(self, encoder: cursor_token.TokenEncoder | None) -> None:
        """Take an encoder that is at this position."""
        self._encoder = encoder

    def encode_json(self) -> bytes:
        """Return the id as JSON: ASCII without spaces."""
        return finished(self._encoding_json())

    def _encoding_json(self) -> Generator[None, None, bytes]:
        entries: list[bytes] = []
        columns = self.partitions, self.offsets, self.timestamps, self.epochs
        for partition, offset, timestamp, epoch in zip(*columns, strict=True):
            if len(entries) % _STEP == _STEP - 1:
                yield
            prefix = entry_prefix(partition)
            entries.append(_ENTRY % (prefix, offset, timestamp, _epoch_text(epoch)))
        return b"[%b]" % b"".join(entries)[1:]

    def id_form(self, index: int) -> bytes | None:
        """Return the ids after events of partition `index` as a format string for `%`.

        It takes an offset and a timestamp. The events must have no epochs, and the other
        partitions do not move. Return None if such an id might be too long for JSON.
        """
        if self.is_long:
            return None
        columns = self.partitions, self.offsets, self.timestamps, self.epochs
        entries = [
            _ENTRY % (entry_prefix(partition), offset, timestamp, _epoch_text(epoch))
            for partition, offset, timestamp, epoch in zip(*columns, strict=True)
        ]
        entries[index] = entry_prefix(self.partitions[index])
        entries = [entry.replace(b"%", b"%%") for entry in entries]
        entries[index] += b'%d,"timestamp":%d}'
        form = b"[%b]" % b"".join(entries)[1:]
        return form if len(form) + 2 * _DIGITS_MAX <= JSON_BYTES_MAX else None

    def encode_token(self) -> bytes | None:
        """Return the id as a token, or None if the position does not fit in one."""
        return cursor_token.encode(self.partitions, self.offsets, self.timestamps, self.epochs)

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
    """Return an entry of an id up to its offset, with the comma before it."""
    topic = json.dumps(partition.topic)  # ASCII, whatever the name
    return b',{"topic":%b,"partition":%d,"offset":' % (topic.encode(), partition.number)


@functools.lru_cache(maxsize=4096)
def _epoch_text(epoch: int) -> bytes:
    return b"" if epoch == NO_EPOCH else b',"epoch":%d' % epoch


@functools.lru_cache(maxsize=256)
def _unknown_epochs(count: int) -> tuple[int, ...]:
    return (NO_EPOCH,) * count


class Cursor:
    """A position that moves. To make the id of each event, it encodes only what has changed."""

    __slots__ = (
        "_entries",
        "_entry",
        "_epochs",
        "_is_long",
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
        self._json_bytes = 0
        """The length of the id as JSON, kept only while there are both a writer and JSON."""
        self._entries: list[bytes] = []
        self._writer = position.take_encoder()
        if self._writer is None and position.is_long:
            self._writer = self._new_writer()
        self._is_long = self._writer is not None
        """Whether all ids are tokens. Then there is no JSON."""
        if self._is_long:
            return
        # An id is the concatenation of all entries: the first and the last include the brackets.
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

    def _new_writer(self) -> cursor_token.TokenEncoder | None:
        steps = cursor_token.writer(self._partitions, self._offsets, self._timestamps, self._epochs)
        return finished(steps)

    def offset(self, index: int) -> int:
        return self._offsets[index]

    def pass_event(
        self, index: int, offset: int, timestamp_ms: int, epoch: int = NO_EPOCH
    ) -> bytes:
        """Move partition `index` past the event at `offset`, written by a leader of `epoch`.

        Return the id to send with that event, as JSON or as a token.
        """
        if self._writer is not None or self._is_long:
            self._move(index, offset + 1, timestamp_ms, epoch)
            return self._long_id()
        self._offsets[index] = offset = offset + 1
        self._timestamps[index] = timestamp_ms
        self._epochs[index] = epoch
        epoch_text = b"" if epoch == NO_EPOCH else _epoch_text(epoch)
        entry = self._entry % (self._prefixes[index], offset, timestamp_ms, epoch_text)
        entries = self._entries
        entries[index] = entry
        position_id = entry if len(entries) == 1 else b"".join(entries)
        if len(position_id) <= JSON_BYTES_MAX:
            return position_id
        self._writer = self._new_writer()
        if self._writer is None:
            return position_id
        self._json_bytes = len(position_id)
        return self._writer.token()

    def pass_hole(self, index: int, offset: int, epoch: int = NO_EPOCH) -> None:
        """Move to `offset`; the log has no events up to it. The timestamp does not change.

        `epoch` is that of the record directly before `offset`, if it is known.
        """
        self._move(index, offset, self._timestamps[index], epoch)

    def _move(self, index: int, offset: int, timestamp_ms: int, epoch: int) -> None:
        self._offsets[index] = offset
        self._timestamps[index] = timestamp_ms
        self._epochs[index] = epoch
        if self._is_long:
            if self._writer is not None:
                self._writer.move(index, offset, timestamp_ms, epoch)
            return
        entry = self._entry % (self._prefixes[index], offset, timestamp_ms, _epoch_text(epoch))
        if self._writer is not None:
            self._json_bytes += len(entry) - len(self._entries[index])
            self._writer.move(index, offset, timestamp_ms, epoch)
        self._entries[index] = entry

    def _long_id(self) -> bytes:
        if self._writer is None:  # `position` has given it away
            self._writer = self._new_writer()
        assert self._writer is not None
        if not self._is_long and self._json_bytes <= JSON_BYTES_MAX:
            return b"".join(self._entries)  # it has become shorter: times not known
        return self._writer.token()

    def position(self) -> Position:
        """Return the position; it gets the writer of a long id, so call this at the end."""
        position = Position(
            self._partitions, tuple(self._offsets), tuple(self._timestamps), tuple(self._epochs)
        )
        if self._is_long:
            position.give_encoder(self._writer)
            self._writer = None
        return position


def before_end(offset: int) -> int | None:
    """Return n if `offset` means "the last n events", otherwise None."""
    return TAIL_BASE - offset if offset <= TAIL_BASE else None


def topics_of(marks: Sequence[PartitionCursor | str]) -> Iterator[str]:
    for mark in marks:
        yield mark if isinstance(mark, str) else mark.partition.topic
