"""Limits how far in the future the timestamps of records may be, for all logs.

A log finds a time by the timestamps of its records. One record dated far ahead would end every
search for a time at that record, and Kafka brokers refuse it by default. A log therefore stores
such a record with the time of appending. The event inside, with its `meta.dt`, is not changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from eventstreams.metrics import Metrics
from eventstreams.model.event import Record

_log = logging.getLogger(__name__)

FUTURE_MAX_S: Final = 3600.0
"""The default of `log.future_max_s`, and of Kafka 4's `message.timestamp.after.max.ms`."""
_LOG_EVERY_S = 60.0


class FutureLimit:
    """Replaces timestamps that are more than `future_max_s` ahead; counts and logs them."""

    def __init__(
        self,
        *,
        future_max_s: float = FUTURE_MAX_S,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns the present time in s since 1970."""
        self._future_max_ms = round(future_max_s * 1000)
        self._metrics = metrics
        self._clock = clock
        self._unlogged = 0
        self._logged_at_s: float | None = None

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records, without timestamps that are too far ahead."""
        latest_ms = round(self._clock() * 1000) + self._future_max_ms
        if all(r.timestamp_ms is None or r.timestamp_ms <= latest_ms for r in records):
            return records
        limited = [
            Record(r.topic, r.value, r.key, None, r.partition, r.place_span)
            if r.timestamp_ms is not None and r.timestamp_ms > latest_ms
            else r
            for r in records
        ]
        changed = [old for old, new in zip(records, limited, strict=True) if old is not new]
        self._report(len(changed), changed[0].topic)
        return limited

    def _report(self, count: int, topic: str) -> None:
        if self._metrics is not None:
            self._metrics.timestamps_limited.inc(count)
        self._unlogged += count
        now_s = time.monotonic()
        if self._logged_at_s is not None and now_s - self._logged_at_s < _LOG_EVERY_S:
            return
        _log.warning(
            "%d records with timestamps more than %g s in the future were stored with the time of"
            " appending; the latest goes to topic %s",
            self._unlogged,
            self._future_max_ms / 1000,
            topic,
        )
        self._unlogged, self._logged_at_s = 0, now_s
