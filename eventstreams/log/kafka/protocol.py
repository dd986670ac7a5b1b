"""Defines requests and answers in versions that aiokafka does not have. No I/O.

A topic that is deleted and created again has the same name and another id. A fetch by id is then
refused, whereas a fetch by name would continue with the records of the new topic. Brokers older
than Kafka 2.8 (metadata) or 3.1 (fetches) have no ids; they get aiokafka's requests.

The answer to a produce request of version 8 (Kafka 2.4) names the records that made the broker
refuse a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v8
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from eventstreams.model.epochs import EpochEnd
from eventstreams.model.event import Partition

METADATA_WITH_IDS = 10
FETCH_BY_IDS = 13

_NO_ID = bytes(16)
_NO_SESSION = (0, -1)
_UNKNOWN = -1
_DIVERGING_TAG = 0
_EPOCH_END = struct.Struct(">iq")
_ALL_IN_SYNC = -1


class _Uuid:
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        value = data.read(16)
        if len(value) != 16:
            raise ValueError("Buffer underrun decoding an id")
        return value


_UUID: Any = _Uuid()
_TEXT = CompactString()
_TAGS = ("tags", TaggedFields)
_INTS: Any = CompactArray(Int32)


class _MetadataResponse(Struct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = METADATA_WITH_IDS
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("topic_id", _UUID),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", _INTS),
                        ("isr", _INTS),
                        ("offline", _INTS),
                        _TAGS,
                    ),
                ),
                ("operations", Int32),
                _TAGS,
            ),
        ),
        ("operations", Int32),
        _TAGS,
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = METADATA_WITH_IDS
    RESPONSE_TYPE: Any = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _UUID), ("topic", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("cluster_operations", Boolean),
        ("topic_operations", Boolean),
        _TAGS,
    )


class _FetchResponse(Struct):  # type: ignore[misc]
    API_KEY = 1
    API_VERSION = FETCH_BY_IDS
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", _UUID),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("highwater_offset", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        (
                            "aborted_transactions",
                            CompactArray(("producer_id", Int64), ("first_offset", Int64), _TAGS),
                        ),
                        ("preferred_read_replica", Int32),
                        ("records", CompactBytes),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _FetchRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 1
    API_VERSION = FETCH_BY_IDS
    RESPONSE_TYPE: Any = _FetchResponse
    SCHEMA = Schema(
        ("replica", Int32),
        ("wait_ms", Int32),
        ("bytes_min", Int32),
        ("bytes_max", Int32),
        ("isolation", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", _UUID),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("leader_epoch", Int32),
                        ("offset", Int64),
                        ("last_epoch", Int32),
                        ("log_start", Int64),
                        ("bytes_max", Int32),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("forgotten", CompactArray(("topic_id", _UUID), ("partitions", _INTS), _TAGS)),
        ("rack", _TEXT),
        _TAGS,
    )


class MetadataByName:
    """A request for the metadata of these topics. It creates none of them."""

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = list(topics)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return the request in a version that the broker supports."""
        if not _supports(versions, _MetadataRequest):
            return MetadataRequest(self._topics, False).prepare(versions)
        topics: Any = [(_NO_ID, topic, {}) for topic in self._topics]
        return _MetadataRequest(topics, False, False, False, {})


class Asked(NamedTuple):
    """One partition of a fetch. Epochs are -1 if they are not known."""

    number: int
    offset: int
    bytes_max: int
    last_epoch: int
    """The epoch of the record before `offset`, which the broker compares with its own."""
    leader_epoch: int
    """The epoch of the leader that is asked. A broker that is no longer the leader refuses."""


def diverging_epoch(tags: dict[int, bytes]) -> EpochEnd | None:
    """Return the divergence that the tagged fields of a fetched partition report, if any."""
    held = tags.get(_DIVERGING_TAG)
    return None if held is None else EpochEnd(*_EPOCH_END.unpack_from(held))


class Fetch:
    """A request for records, by topic ids if all of them are known, otherwise by names.

    `topics` holds the name, the id and the partitions of each topic. Only a fetch by ids has
    epochs, because brokers without ids do not report divergence.
    """

    def __init__(
        self,
        topics: list[tuple[str, bytes | None, list[Asked]]],
        *,
        isolation: int,
        wait_ms: int,
        bytes_max: int,
    ) -> None:
        self._topics = topics
        self._isolation = isolation
        self._wait_ms = wait_ms
        self._bytes_max = bytes_max
        self.names = {id_: topic for topic, id_, _ in topics}

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return the request in a version that the broker supports."""
        limits = self._wait_ms, 1, self._bytes_max, self._isolation
        if None in self.names or not _supports(versions, _FetchRequest):
            by_name = [
                (topic, [(p.number, p.offset, p.bytes_max) for p in partitions])
                for topic, _, partitions in self._topics
            ]
            return FetchRequest(*limits, by_name).prepare(versions)
        by_id: Any = [
            (
                id_,
                [
                    (p.number, p.leader_epoch, p.offset, p.last_epoch, _UNKNOWN, p.bytes_max, {})
                    for p in partitions
                ],
                {},
            )
            for _, id_, partitions in self._topics
        ]
        return _FetchRequest(_UNKNOWN, *limits, *_NO_SESSION, by_id, [], "", {})


class Produce:
    """One batch for one partition, acknowledged by all in-sync replicas."""

    def __init__(self, partition: Partition, batch: bytes, *, timeout_ms: int) -> None:
        to_topic = [(partition.topic, [(partition.number, batch)])]
        self._fields: Any = (None, _ALL_IN_SYNC, timeout_ms, to_topic)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return the request in a version that the broker supports."""
        if _supports(versions, ProduceRequest_v8):
            return ProduceRequest_v8(*self._fields)
        return ProduceRequest(*self._fields).prepare(versions)


class Produced(NamedTuple):
    """The answer to the produce request of one batch."""

    code: int
    offset: int
    """The offset of the batch's first record."""
    refused: dict[int, str]
    """The broker's reason for each record that it refused, by the record's index in the batch."""


def produced(answer: Any) -> Produced:
    """Read the answer to a `Produce`. Brokers older than Kafka 2.4 name no records."""
    _, code, offset, *rest = answer.topics[0][1][0]
    if answer.API_VERSION < ProduceRequest_v8.API_VERSION:
        return Produced(code, offset, {})
    record_errors, message = rest[-2:]
    refused = {index: reason or message or "" for index, reason in record_errors or ()}
    return Produced(code, offset, refused)


def _supports(versions: dict[int, tuple[int, int]], request: Any) -> bool:
    least, most = versions.get(request.API_KEY, (0, -1))
    return bool(least <= request.API_VERSION <= most)
