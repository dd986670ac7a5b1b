"""Translates the errors of aiokafka and of brokers into the errors of a Log, with one table.

Brokers send numbers, and aiokafka has no classes for some of the newer ones. Therefore the reaction
to an answer (look for the leader again, refuse the append) depends on the number. Errors without a
row of their own are covered too, because KafkaError itself is in the table.
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

# Numbers of https://kafka.apache.org/protocol#protocol_error_codes on which the reaction depends.
NONE = 0
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC_OR_PARTITION = 3
INVALID_TOPIC = 17
TOPIC_AUTHORIZATION_FAILED = 29
TOPIC_ALREADY_EXISTS = 36
INVALID_PARTITIONS = 37
NOT_CONTROLLER = 41

# The topic does not exist.
NO_SUCH_TOPIC = frozenset({UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC, 100})

# The batch may have been written nevertheless: replication took too long, or too few replicas did.
MAYBE_WRITTEN = frozenset({7, 20})

# The broker no longer accepts this producer, which needs a new producer id.
PRODUCER_FORGOTTEN = frozenset({45, 46, 47, 49, 59})

# The batch is larger than the topic allows; a smaller one may be accepted.
TOO_LARGE = frozenset({10, 18})

# One of the records is invalid; the others may be accepted without it.
OF_RECORDS = frozenset({2, 32, 87})

# Temporary errors, for example until the next leader election: try again.
PASSING = frozenset(
    {3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 74, 75, 78, 89, 100, 103}
)

# The names of errors for which aiokafka has no class.
_NEWER = {
    74: "FENCED_LEADER_EPOCH",
    75: "UNKNOWN_LEADER_EPOCH",
    78: "OFFSET_NOT_AVAILABLE",
    87: "INVALID_RECORD",
    89: "THROTTLING_QUOTA_EXCEEDED",
    100: "UNKNOWN_TOPIC_ID",
    103: "INCONSISTENT_TOPIC_ID",
}

# The first class in an error's method resolution order that is listed here decides.
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
    OSError: LogUnavailable,  # includes TimeoutError and ssl.SSLError
    EOFError: LogUnavailable,
    NotImplementedError: LogUnavailable,  # no version of the request that both sides support
    # The peer is not a Kafka broker.
    ValueError: LogUnavailable,
    AssertionError: LogUnavailable,
}
FOREIGN = tuple(TABLE)


def kind_of(error: type[BaseException]) -> type[LogError]:
    """Return the class that replaces an error of aiokafka or of a connection."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)


def translated(error: BaseException, doing: str, partition: Partition | None = None) -> LogError:
    """Return the error to raise instead. `doing` says what was attempted."""
    return _made(kind_of(type(error)), f"{doing}: {_text_of(error)}", partition)


def refusal(code: int, doing: str, partition: Partition | None = None) -> LogError:
    """Return the error for an error number of a broker. `doing` says what was attempted."""
    return _made(kind_of(kafka.for_code(code)), f"{doing}: {name_of(code)}", partition)


def append_refusal(code: int, partition: Partition, reason: str = "") -> LogError:
    """Return the error for an append that the broker did not accept; `reason` is its text.

    It is LogUnavailable for the codes in PASSING, and AppendRefused for all others.
    """
    text = f"appending to {partition.topic}: {name_of(code)}{reason and f' ({reason})'}"
    return LogUnavailable(text, [partition]) if code in PASSING else AppendRefused(text)


def name_of(code: int) -> str:
    """Return Kafka's name of an error number."""
    return _NEWER.get(code) or (
        kafka.for_code(code).message if code in kafka.kafka_errors else f"error {code}"
    )


def _made(kind: type[LogError], message: str, partition: Partition | None) -> LogError:
    if kind is UnknownTopic and partition:
        return UnknownTopic(partition.topic)
    if kind in (UnknownTopic, UnknownPartition, OffsetOutOfRange):  # these need more than a message
        kind = LogUnavailable
    if kind is LogUnavailable:
        return LogUnavailable(message, [partition] if partition else ())
    return kind(message)


def _text_of(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no response in time"
    return str(error) or type(error).__name__
