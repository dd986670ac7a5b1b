"""The fetch and list-offsets requests: built, and their answers read. No I/O.

The answers come in versions; only those since Kafka 0.11 (fetch 4, list offsets 2) occur, because
no older broker knows transactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aiokafka.protocol.offset import OffsetRequest

from eventstreams.log.base import NOTHING_KNOWN
from eventstreams.log.kafka_protocol import FETCH_BY_IDS, Asked, Fetch, diverging_epoch
from eventstreams.model.epochs import NO_EPOCH, EpochEnd
from eventstreams.model.event import Partition

EARLIEST = -2
LATEST = -1
"""In place of a time: with isolation read_committed, the last stable offset."""

INT64_MAX = 2**63 - 1

_ISOLATION = {"read_uncommitted": 0, "read_committed": 1}
_PREFERRED_REPLICA_SINCE = 11


def is_offset(number: int) -> bool:
    """Whether a request can say it; what it cannot say is out of range anyway."""
    return 0 <= number <= INT64_MAX


class Fetched(NamedTuple):
    """What one partition's part of an answer holds; `end` as `Log.bounds` has it.

    `aborted` is None when aborted records are to be read as well.
    """

    partition: Partition
    code: int
    end: int
    aborted: list[tuple[int, int]] | None
    data: bytes
    diverging: EpochEnd | None
    """The leader's answer where it does not have what was read before the offset asked for."""


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
    """Asks for several partitions; the broker fills the answer in their order.

    The first batch of the first partition that has any is sent whole, however large. `epochs`: of
    the record before each offset, where it is known.
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
    """Asks for the first offset at or after a time in ms, or EARLIEST or LATEST."""
    topics: dict[str, list[tuple[int, int]]] = {}
    for partition, time_ms in times.items():
        topics.setdefault(partition.topic, []).append((partition.number, time_ms))
    return OffsetRequest(-1, _ISOLATION[isolation], list(topics.items()))


def offsets_found(answer: Any) -> Iterator[tuple[Partition, int, int]]:
    """Per partition: the error's number and the offset, -1 where there is none."""
    for topic, partitions in answer.topics:
        for number, code, _, offset, *_ in partitions:
            yield Partition(topic, number), code, offset
