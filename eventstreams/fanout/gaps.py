"""What a stream misses when the log lost records, and where the stream continues."""

from __future__ import annotations

from collections.abc import Sequence

from eventstreams.errors import LogTruncated, OffsetOutOfRange, RecordsDamaged
from eventstreams.fanout.catch_up import CatchUp
from eventstreams.fanout.resume import Gap, Resumer, gap_document
from eventstreams.fanout.tail import Tail
from eventstreams.metrics import Metrics
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.position import Mark, Position


class GapFinder:
    def __init__(self, *, resumer: Resumer, catch_up: CatchUp, metrics: Metrics) -> None:
        self._resumer = resumer
        self._catch_up = catch_up
        self._metrics = metrics

    async def after(
        self, position: Position, error: OffsetOutOfRange | RecordsDamaged | LogTruncated
    ) -> tuple[Position, dict[str, object] | None]:
        """Return where a stream continues, and the document of the gap to report, if there is one.

        Raises LogError.
        """
        partition = error.partition
        if isinstance(error, RecordsDamaged):
            damage = Gap(partition, error.offset, error.bounds, error.next, "damaged")
            self._metrics.gaps.labels(damage.cause).inc()
            return position.at(partition, error.next, 0), gap_document([damage])
        i = position.partitions.index(partition)
        self._catch_up.forget(partition)  # it may know the record before the lost one
        offset, time_ms, epoch = position.offsets[i], position.timestamps[i], position.epochs[i]
        if isinstance(error, LogTruncated):
            found = await self._resumer.truncated(partition, offset, error.end)
        elif error.bounds is not None and offset < error.bounds.oldest:
            # It is this log all the same: its time must not find another place.
            found = await self._resumer.resume(Mark(partition, offset, None))
        else:
            found = await self._resumer.resume(Mark(partition, offset, time_ms, epoch))
        moved = position.at(partition, found.offset, found.timestamp_ms, found.epoch)
        if found.gap is None:
            return moved, None
        self._metrics.gaps.labels(found.gap.cause).inc()
        return moved, gap_document([found.gap])


def require_same(mine: Position, other: Position, tails: Sequence[Tail]) -> None:
    """Raises LogTruncated where positions with the same offsets are behind other records."""
    if mine.epochs == other.epochs:
        return
    for mine_epoch, other_epoch, offset, tail in zip(
        mine.epochs, other.epochs, mine.offsets, tails, strict=True
    ):
        if mine_epoch != other_epoch and NO_EPOCH not in (mine_epoch, other_epoch):
            end = tail.floor if tail.truncated_at is None else tail.truncated_at
            raise LogTruncated(tail.partition, offset, min(end, offset))
