"""Determines what a stream misses when the log has lost records, and where it continues."""

from __future__ import annotations

from collections.abc import Sequence

from eventstreams.errors import GapRecorded, LogTruncated, OffsetOutOfRange, RecordsDamaged
from eventstreams.fanout.catch_up import CatchUp
from eventstreams.fanout.resume import Gap, ResumeResolver, gap_document
from eventstreams.fanout.tails import Tail
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.gap_marker import cause_of
from eventstreams.model.position import PartitionCursor, Position

MissingEvents = OffsetOutOfRange | RecordsDamaged | LogTruncated | GapRecorded
"""The errors that a stream reports as a gap."""


class GapFinder:
    def __init__(
        self, *, resume_resolver: ResumeResolver, catch_up: CatchUp, metrics: Metrics
    ) -> None:
        self._resume_resolver = resume_resolver
        self._catch_up = catch_up
        self._metrics = metrics

    async def after(
        self, position: Position, error: MissingEvents
    ) -> tuple[Position, dict[str, object] | None]:
        """Return the position at which a stream continues, and the gap document to report, if any.

        Raises LogError.
        """
        partition = error.partition
        if isinstance(error, GapRecorded):
            self._metrics.gaps.labels(cause_of(error.document)).inc()
            after = (error.offset + 1, error.timestamp_ms, error.epoch)
            return position.at(partition, *after), error.document
        if isinstance(error, RecordsDamaged):
            damage = Gap(partition, error.offset, error.bounds, error.next, "damaged")
            self._metrics.gaps.labels(damage.cause).inc()
            return position.at(partition, error.next, 0), gap_document([damage])
        i = position.partitions.index(partition)
        self._catch_up.forget(partition)  # its cache may still hold the record before the lost one
        offset, time_ms, epoch = position.offsets[i], position.timestamps[i], position.epochs[i]
        if isinstance(error, LogTruncated):
            found = await self._resume_resolver.truncated(partition, offset, error.end)
        elif error.bounds is not None and offset < error.bounds.oldest:
            # The log is the same one, so the timestamp must not lead to another place.
            found = await self._resume_resolver.resume(PartitionCursor(partition, offset, None))
        else:
            found = await self._resume_resolver.resume(
                PartitionCursor(partition, offset, time_ms, epoch)
            )
        moved = position.at(partition, found.offset, found.timestamp_ms, found.epoch)
        if found.gap is None:
            return moved, None
        self._metrics.gaps.labels(found.gap.cause).inc()
        return moved, gap_document([found.gap])


def require_same(mine: Position, other: Position, tails: Sequence[Tail]) -> None:
    """Raise LogTruncated if positions with equal offsets follow different records."""
    if mine.epochs == other.epochs:
        return
    for mine_epoch, other_epoch, offset, tail in zip(
        mine.epochs, other.epochs, mine.offsets, tails, strict=True
    ):
        if mine_epoch != other_epoch and NO_EPOCH not in (mine_epoch, other_epoch):
            end = tail.floor if tail.truncated_at is None else tail.truncated_at
            raise LogTruncated(tail.partition, offset, min(end, offset))
