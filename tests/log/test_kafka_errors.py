"""The table of Kafka's errors is complete, and says what it should of those that matter."""

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
from eventstreams.log import kafka_errors as errors
from eventstreams.model.event import Partition

EVERY_ERROR = [
    error
    for _, error in inspect.getmembers(kafka, inspect.isclass)
    if issubclass(error, Exception) and error is not kafka.BrokerResponseError  # an abstract class
]
SOMEWHERE = Partition("topic", 3)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_every_error_of_aiokafka_becomes_one_of_ours(error: type[Exception]) -> None:
    assert issubclass(errors.kind_of(error), LogError)
    assert isinstance(errors.translated(error.__new__(error), "reading", SOMEWHERE), LogError)
    assert issubclass(error, errors.FOREIGN), "it is caught where it arises"


@pytest.mark.parametrize("code", range(-1, 135))
def test_every_number_a_broker_may_answer_becomes_one_of_ours(code: int) -> None:
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
def test_what_matters_becomes_what_it_means(
    error: type[BaseException], ours: type[LogError]
) -> None:
    assert errors.kind_of(error) is ours


def test_whatever_aiokafka_would_retry_is_passing_here() -> None:
    retried = {code for code, error in kafka.kafka_errors.items() if error.retriable}
    assert retried <= errors.PASSING


def test_an_append_is_unavailable_only_where_trying_again_may_help() -> None:
    for code in errors.PASSING:
        assert isinstance(errors.append_refusal(code, SOMEWHERE), LogUnavailable)
    for code in (10, 18, 29, 32, 44, 87):
        assert isinstance(errors.append_refusal(code, SOMEWHERE), AppendRefused)


def test_an_error_says_what_was_being_done() -> None:
    error = errors.translated(kafka.KafkaConnectionError("refused"), "asking h:1")
    assert "asking h:1" in str(error)
    assert "refused" in str(error)
    assert "topic" in str(errors.translated(kafka.InvalidTopicError(), "reading", SOMEWHERE))
