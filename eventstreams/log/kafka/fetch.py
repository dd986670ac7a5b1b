"""Builds fetch and list-offsets requests, and reads their answers. No I/O.

Answers have at least the versions of Kafka 0.11 (fetch 4, list offsets 2), because older brokers do
not support transactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aiokafka.protocol.offset import OffsetRequest

from eventstreams.log.base import NOTHING_KNOWN
from eventstreams.log.kafka.protocol import FETCH_BY_IDS, Asked, Fetch, diverging_epoch
from eventstreams.model.epochs import NO_EPOCH, EpochEnd
from eventstreams.model.event import Partition

EARLIEST = -2
LATEST = -1
"""Replaces a time in requests for the end, which is the last stable offset with read_committed."""

INT64_MAX = 2**63 - 1

_ISOLATION = {"read_uncommitted": 0, "read_committed": 1}
_PREFERRED_REPLICA_SINCE = 11


def is_offset(number: int) -> bool:
    """Return whether a request can hold this offset. All other offsets are out of range."""
    return 0 <= number <= INT64_MAX


class Fetched(NamedTuple):
    """One partition's part of an answer. `end` is that of `Log.bounds`.

    `aborted` is None if records of aborted transactions are read too.
    """

    partition: Partition
    code: int
    end: int
    aborted: list[tuple[int, int]] | None
    data: bytes
    diverging: EpochEnd | None
    """Where the leader's records diverge from those read before the requested offset, if so."""


def fetch_request(
    offsets: Mapping[Partition, int],
    *,
    ids: Mapping[str, bytes],
    epochs: Mapping[Partition, int] = NOTHING_KNOWN,
    leader_epochs: Mapping[Partition, int] = NOTHING_KNOWN,
    isolation: str,
    wait_ms: int,
    bytes_max: int,
    partition_bytes_max: int,
) -> Fetch:
    """Return a request for several partitions; the broker fills the answer in their order.

    The first batch of the first partition that has one is sent completely, however large it is.
    `epochs` holds the epoch of the record before each offset, if it is known.
    """
    topics: dict[str, list[Asked]] = {}
    for partition, offset in offsets.items():
        topics.setdefault(partition.topic, []).append(
            Asked(
                partition.number,
                offset,
                partition_bytes_max,
                epochs.get(partition, NO_EPOCH),
                leader_epochs.get(partition, NO_EPOCH),
            )
        )
    return Fetch(
        [(topic, ids.get(topic), partitions) for topic, partitions in topics.items()],
        isolation=_ISOLATION[isolation],
        wait_ms=wait_ms,
        bytes_max=bytes_max,
    )


def fetched(request: Fetch, answer: Any, isolation: str) -> Iterator[Fetched]:
    """Return each partition's part of the answer to a fetch."""
    by_id = answer.API_VERSION >= FETCH_BY_IDS
    for topic, partitions, *_ in answer.topics:
        name = request.names[topic] if by_id else topic
        for number, code, high_watermark, stable_end, *fields in partitions:
            rest = fields[:-1] if by_id else fields
            aborted = rest[-3] if answer.API_VERSION >= _PREFERRED_REPLICA_SINCE else rest[-2]
            committed = isolation == "read_committed"
            yield Fetched(
                Partition(name, number),
                code,
                stable_end if committed else high_watermark,
                [(producer, first) for producer, first, *_ in aborted or ()] if committed else None,
                rest[-1] or b"",
                diverging_epoch(fields[-1]) if by_id else None,
            )


def offsets_request(times: Mapping[Partition, int], *, isolation: str) -> Any:
    """Return a request for the first offsets at or after times in ms, or EARLIEST or LATEST."""
    topics: dict[str, list[tuple[int, int]]] = {}
    for partition, time_ms in times.items():
        topics.setdefault(partition.topic, []).append((partition.number, time_ms))
    return OffsetRequest(-1, _ISOLATION[isolation], list(topics.items()))


def offsets_found(answer: Any) -> Iterator[tuple[Partition, int, int]]:
    """Return (partition, error number, offset) of an answer; the offset is -1 if there is none."""
    for topic, partitions in answer.topics:
        for number, code, _, offset, *_ in partitions:
            yield Partition(topic, number), code, offset
