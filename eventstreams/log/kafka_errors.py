"""Kafka's errors, as the errors of a Log: one table, used wherever aiokafka or a broker says no.

Two things to know. Brokers send numbers, some newer than aiokafka's classes, so what is to be done
about an answer (look for the leader anew, refuse the append) is decided by number. And an error
without a row of its own is not forgotten: KafkaError itself is in the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import errors as kafka

from eventstreams.errors import (
    AppendRefused,
    LogCorrupt,
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from eventstreams.model.event import Partition

# Numbers of https://kafka.apache.org/protocol#protocol_error_codes that decide what happens next.
NONE = 0
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC_OR_PARTITION = 3
INVALID_TOPIC = 17
TOPIC_AUTHORIZATION_FAILED = 29
TOPIC_ALREADY_EXISTS = 36
INVALID_PARTITIONS = 37
NOT_CONTROLLER = 41

# The broker knows no such topic.
NO_SUCH_TOPIC = frozenset({UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC, 100})

# A produce answered so may have been written all the same: it was too slow, or replicas too few.
MAYBE_WRITTEN = frozenset({7, 20})

# The producer's standing with the broker is lost: it needs a new producer id.
PRODUCER_FORGOTTEN = frozenset({45, 46, 47, 49, 59})

# The batch is larger than the topic allows; a smaller one may be taken.
TOO_LARGE = frozenset({10, 18})

# Some record of the batch is at fault; the others may be taken without it.
OF_RECORDS = frozenset({2, 32, 87})

# A broker that answers so may answer otherwise after the next leader election: try again.
PASSING = frozenset(
    {3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 74, 75, 78, 89, 100, 103}
)

# What aiokafka has no class for.
_NEWER = {
    74: "FENCED_LEADER_EPOCH",
    75: "UNKNOWN_LEADER_EPOCH",
    78: "OFFSET_NOT_AVAILABLE",
    87: "INVALID_RECORD",
    89: "THROTTLING_QUOTA_EXCEEDED",
    100: "UNKNOWN_TOPIC_ID",
    103: "INCONSISTENT_TOPIC_ID",
}

# The most special class of an error's ancestry that is listed decides.
TABLE: Mapping[type[BaseException], type[LogError]] = {
    kafka.OffsetOutOfRangeError: OffsetOutOfRange,
    kafka.NoOffsetForPartitionError: OffsetOutOfRange,
    kafka.UnknownTopicOrPartitionError: UnknownTopic,
    kafka.InvalidTopicError: UnknownTopic,
    kafka.CorruptRecordException: LogCorrupt,
    kafka.UnsupportedCodecError: LogCorrupt,
    kafka.UnsupportedForMessageFormatError: LogCorrupt,
    kafka.RecordTooLargeError: AppendRefused,
    kafka.MessageSizeTooLargeError: AppendRefused,
    kafka.RecordListTooLargeError: AppendRefused,
    kafka.InvalidTimestampError: AppendRefused,
    kafka.InvalidRequiredAcksError: AppendRefused,
    kafka.PolicyViolationError: AppendRefused,
    kafka.KafkaError: LogUnavailable,
    kafka.ConsumerStoppedError: LogUnavailable,
    kafka.IllegalOperation: LogUnavailable,
    OSError: LogUnavailable,  # TimeoutError and ssl.SSLError are among them
    EOFError: LogUnavailable,
    NotImplementedError: LogUnavailable,  # the broker speaks no version of this request that we do
    # A peer that is no Kafka broker at all.
    ValueError: LogUnavailable,
    AssertionError: LogUnavailable,
}
FOREIGN = tuple(TABLE)


def kind_of(error: type[BaseException]) -> type[LogError]:
    """The class of ours that an error of aiokafka, or of the connection, becomes."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)


def translated(error: BaseException, doing: str, partition: Partition | None = None) -> LogError:
    """The error to raise instead, saying what was being done."""
    return _made(kind_of(type(error)), f"{doing}: {_said(error)}", partition)


def refusal(code: int, doing: str, partition: Partition | None = None) -> LogError:
    """The error for a number that a broker answered with."""
    return _made(kind_of(kafka.for_code(code)), f"{doing}: {name_of(code)}", partition)


def append_refusal(code: int, partition: Partition, reason: str = "") -> LogError:
    """Return the error for an append that the broker does not take; `reason` is in its words.

    Every code that is not passing is a refusal.
    """
    said = f"appending to {partition.topic}: {name_of(code)}{reason and f' ({reason})'}"
    return LogUnavailable(said, [partition]) if code in PASSING else AppendRefused(said)


def name_of(code: int) -> str:
    """Kafka's own name for a number."""
    return _NEWER.get(code) or (
        kafka.for_code(code).message if code in kafka.kafka_errors else f"error {code}"
    )


def _made(kind: type[LogError], message: str, partition: Partition | None) -> LogError:
    if kind is UnknownTopic and partition:
        return UnknownTopic(partition.topic)
    if kind in (UnknownTopic, UnknownPartition, OffsetOutOfRange):  # these need more than a text
        kind = LogUnavailable
    if kind is LogUnavailable:
        return LogUnavailable(message, [partition] if partition else ())
    return kind(message)


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
