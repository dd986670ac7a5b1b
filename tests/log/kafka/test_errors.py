"""The table of Kafka's errors is complete, and correct for the important ones."""

from __future__ import annotations

import inspect

import pytest
from aiokafka import errors as kafka

from eventstreams.errors import (
    AppendRefused,
    LogCorrupt,
    LogError,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownTopic,
)
from eventstreams.log.kafka import errors
from eventstreams.model.event import Partition

EVERY_ERROR = [
    error
    for _, error in inspect.getmembers(kafka, inspect.isclass)
    if issubclass(error, Exception) and error is not kafka.BrokerResponseError  # an abstract class
]
SOMEWHERE = Partition("topic", 3)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_every_error_of_aiokafka_is_translated(error: type[Exception]) -> None:
    assert issubclass(errors.kind_of(error), LogError)
    assert isinstance(errors.translated(error.__new__(error), "reading", SOMEWHERE), LogError)
    assert issubclass(error, errors.FOREIGN), "callers must catch it"


@pytest.mark.parametrize("code", range(-1, 135))
def test_every_error_number_of_brokers_is_translated(code: int) -> None:
    assert isinstance(errors.refusal(code, "reading", SOMEWHERE), LogError)
    assert isinstance(errors.append_refusal(code, SOMEWHERE), LogUnavailable | AppendRefused)
    assert errors.name_of(code)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka.OffsetOutOfRangeError, OffsetOutOfRange),
        (kafka.UnknownTopicOrPartitionError, UnknownTopic),
        (kafka.InvalidTopicError, UnknownTopic),
        (kafka.CorruptRecordException, LogCorrupt),
        (kafka.MessageSizeTooLargeError, AppendRefused),
        (kafka.NotLeaderForPartitionError, LogUnavailable),
        (kafka.KafkaConnectionError, LogUnavailable),
        (kafka.SaslAuthenticationFailed, LogUnavailable),
        (ConnectionRefusedError, LogUnavailable),
        (TimeoutError, LogUnavailable),
    ],
)
def test_important_errors_have_the_right_type(
    error: type[BaseException], ours: type[LogError]
) -> None:
    assert errors.kind_of(error) is ours


def test_errors_that_aiokafka_retries_count_as_temporary() -> None:
    retried = {code for code, error in kafka.kafka_errors.items() if error.retriable}
    assert retried <= errors.PASSING


def test_appends_are_unavailable_only_after_temporary_errors() -> None:
    for code in errors.PASSING:
        assert isinstance(errors.append_refusal(code, SOMEWHERE), LogUnavailable)
    for code in (10, 18, 29, 32, 44, 87):
        assert isinstance(errors.append_refusal(code, SOMEWHERE), AppendRefused)


def test_errors_name_the_failed_operation() -> None:
    error = errors.translated(kafka.KafkaConnectionError("refused"), "asking h:1")
    assert "asking h:1" in str(error)
    assert "refused" in str(error)
    assert "topic" in str(errors.translated(kafka.InvalidTopicError(), "reading", SOMEWHERE))
