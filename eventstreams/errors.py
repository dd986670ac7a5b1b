"""Every error this package raises on purpose.

EventStreamsError
├── ConfigError            the operator's: settings or catalogue are wrong; says every problem
├── ClientError            the caller's: answered with a status, counted, never logged as a fault
│   ├── ServiceProblem         {"status", "type", "title", "detail", "method", "uri"} as JSON
│   │   ├── UnknownStream          400 not_found
│   │   ├── InvalidTimestamp       400 invalid_timestamp
│   │   ├── InvalidFilter          400 invalid_filter
│   │   ├── FiltersUnavailable     501 filters_unavailable: the CEL runtime is not installed
│   │   ├── InvalidFields          400 invalid_fields
│   │   ├── InvalidSample          400 invalid_sample
│   │   ├── MissingClientAddress   400 bad_request
│   │   ├── TooManyConnections, TooManyConnects   429 too_many_requests: at once, in a minute
│   │   ├── those of access.errors    401, 403, 503: tokens and keys
│   │   ├── InvalidParameter       400 invalid_parameter: limit, heartbeat, compress, ...
│   │   ├── GatewayFull            503 unavailable; GatewayStopping: while draining
│   │   ├── BadBody                400 bad_body: not JSON, not UTF-8, not what its headers say
│   │   ├── NoSuchSchema           404 not_found
│   │   ├── BrokenSchema           422 broken_schema: an operator must mend it
│   │   ├── BodyTimeout            408 body_timeout
│   │   ├── BodyTooLarge           413 body_too_large: in bytes or events
│   │   ├── UnsupportedBody        415 unsupported_body: content type, charset or coding
│   │   └── IntakeFull             503 unavailable: too much is being taken already
│   ├── GapFound               410: events are missing, and the request said gap=fail
│   └── AssignmentProblem      the other shape: reason phrase "Name: message", no content type
│       ├── InvalidAssignment      400
│       ├── TopicNotAvailable      404
│       ├── ConfigurationFault     500: none of the topics of the request exist
│       └── LogUnreachable         503: the log did not answer in time
├── FilterTooCostly        choosing events takes more than a stream's share; the stream ends
├── SchemaError            schemas are wrong; says every problem
│   ├── SchemaNotFound         there is none at this URI
│   └── BadSchemaUri           not a URI that a schema of a repository can have
├── ProducerClosed         an event came, or was waited for, when the producer had ended
├── SseEventTooLarge       an event stream that is read has an event beyond the limit
├── LedgerUnavailable      those who share limits can't be asked
├── OutboxError            the outbox can't be used: another process has it, disk full, damaged
└── LogError               the log's: what a backend raises, whatever library it is built on
    ├── LogUnavailable         passing: broker gone, database locked; the same call may work later
    │   └── LogFilesLost           the embedded log's files are not those that are open
    ├── AppendRefused          nothing of this append was kept: record too large, ...
    │   └── LogUnwritable          whatever the record: disk full, read-only, ...
    ├── LogCorrupt             the file is not a log, or is damaged; an operator must act
    ├── RecordsDamaged         some records can't be read as they were written; others can
    ├── UnknownTopic           the topic does not exist (never did, or was deleted)
    ├── UnknownPartition       the topic exists but has no such partition
    ├── OffsetOutOfRange       before the oldest kept record, or beyond the end
    └── LogTruncated           the end of a partition was lost, other records have its offsets

A backend translates its library's errors into LogErrors where they arise; nothing above the log
imports that library. The web layer turns ClientErrors into answers in one handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstreams.model.event import Bounds, Partition
    from eventstreams.schemas.problem import Problem


class EventStreamsError(Exception):
    """The root of the tree."""


class ConfigError(EventStreamsError):
    """Settings or catalogue are wrong.

    `problems` holds one line per problem, each beginning with the path of the setting.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ClientError(EventStreamsError):
    """A request that can't be answered as asked. `status` is the HTTP status."""

    status: ClassVar[int] = 400


class FilterTooCostly(EventStreamsError):
    """A stream takes more than its share of time to choose its events, and falls behind."""


class SchemaError(EventStreamsError):
    """Everything that reads schemas raises this with all the problems it found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class SchemaNotFound(SchemaError):
    """There is no schema at this URI."""


class BadSchemaUri(SchemaError):
    """Not a URI that a schema of a repository can have."""


class SseEventTooLarge(EventStreamsError):
    """An event stream that is read has an event beyond the reader's limit."""


class LedgerUnavailable(EventStreamsError):
    """Those who share limits and tickets can't be asked."""


class ProducerClosed(EventStreamsError):
    """The producer has ended; what was sent meanwhile is not known to have gone anywhere."""


class OutboxError(EventStreamsError):
    """The outbox can't be used; what was to be put into it is not in it."""


class ServiceProblem(ClientError):
    """Errors the service itself finds, in the first of the two upstream body shapes."""

    type: ClassVar[str] = "bad_request"
    title: ClassVar[str] = "Bad Request"
    retry_after_s: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnknownStream(ServiceProblem):
    type = "not_found"
    title = "Stream Not Found"

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Invalid streams: {','.join(names)}")
        self.names = names


class InvalidTimestamp(ServiceProblem):
    type = "invalid_timestamp"
    title = "Invalid timestamp"


class InvalidFilter(ServiceProblem):
    """The detail has three lines: what and where, the expression, a caret below the place."""

    type = "invalid_filter"
    title = "Invalid Filter"


class FiltersUnavailable(ServiceProblem):
    """This installation has no CEL runtime, so it can evaluate no filter."""

    status = 501
    type = "filters_unavailable"
    title = "Filters Not Available"


class InvalidFields(ServiceProblem):
    type = "invalid_fields"
    title = "Invalid Fields"


class InvalidSample(ServiceProblem):
    type = "invalid_sample"
    title = "Invalid Sample"


class InvalidParameter(ServiceProblem):
    type = "invalid_parameter"
    title = "Invalid Parameter"


class MissingClientAddress(ServiceProblem):
    title = "Missing Required X-Client-IP Header"


class Later(ServiceProblem):
    """Worth asking again after `retry_after_s` at the soonest; the answer spreads it."""

    status = 503
    type = "unavailable"
    title = "Service Unavailable"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyConnections(Later):
    status = 429
    type = "too_many_requests"
    title = "Too Many Concurrent Connections From Your Client IP"


class TooManyConnects(Later):
    status = 429
    type = "too_many_requests"
    title = "Too Many Connects From Your Client IP"


class GatewayFull(Later):
    pass


class GatewayStopping(GatewayFull):
    """The process is about to end; another one answers the same request."""


class BadBody(ServiceProblem):
    type = "bad_body"
    title = "Bad Body"


class NoSuchSchema(ServiceProblem):
    status = 404
    type = "not_found"
    title = "Schema Not Found"


class BrokenSchema(ServiceProblem):
    status = 422
    type = "broken_schema"
    title = "Broken Schema"


class BodyTimeout(ServiceProblem):
    status = 408
    type = "body_timeout"
    title = "Request Timeout"


class BodyTooLarge(ServiceProblem):
    status = 413
    type = "body_too_large"
    title = "Content Too Large"


class UnsupportedBody(ServiceProblem):
    status = 415
    type = "unsupported_body"
    title = "Unsupported Media Type"


class IntakeFull(Later):
    pass


class IntakeShareUsed(TooManyConnects):
    title = "Too Much Posted At Once From Your Client IP"


class GapFound(ClientError):
    """What was asked for is not to be had whole. `document` is that of a gap frame."""

    status = 410

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document["message"])
        self.document = document


class AssignmentProblem(ClientError):
    """Errors of the assignment, in the second body shape: `fields` are the body's own keys."""

    retry_after_s: int | None = None

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    @property
    def name(self) -> str:
        """The error's name on the wire, as upstream clients know it."""
        return f"{type(self).__name__}Error"

    def body(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "origin": "KafkaSSE",  # what clients of upstream know
            "name": self.name,
            **self.fields,
            "statusCode": self.status,
        }


class InvalidAssignment(AssignmentProblem):
    pass


class TopicNotAvailable(AssignmentProblem):
    status = 404


class ConfigurationFault(AssignmentProblem):
    status = 500

    @property
    def name(self) -> str:
        return "ConfigurationError"


class LogUnreachable(AssignmentProblem):
    status = 503

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LogError(EventStreamsError):
    """What a log backend raises. The message never holds bytes of a record."""


class LogUnavailable(LogError):
    """`partitions` are those that are out of reach; none means the whole log."""

    def __init__(self, message: str, partitions: Iterable[Partition] = ()) -> None:
        super().__init__(message)
        self.partitions = frozenset(partitions)


class LogFilesLost(LogUnavailable):
    """Files of the embedded log were deleted, replaced or cut short while they were in use."""


class AppendRefused(LogError):
    pass


class LogUnwritable(AppendRefused):
    pass


class LogCorrupt(LogError):
    pass


class UnknownTopic(LogError):
    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} does not exist")
        self.topic = topic


class UnknownPartition(LogError):
    def __init__(self, partition: Partition) -> None:
        super().__init__(f"topic {partition.topic} has no partition {partition.number}")
        self.partition = partition


class RecordsDamaged(LogError):
    """The records from `offset` up to `next`, not included, are not what was written."""

    def __init__(self, partition: Partition, offset: int, following: int, bounds: Bounds) -> None:
        last = f" to {following - 1}" if following > offset + 1 else ""
        super().__init__(
            f"{partition.topic}/{partition.number} is damaged at offset {offset}{last}:"
            " what is stored there is not what was written"
        )
        self.partition = partition
        self.offset = offset
        self.next = following
        self.bounds = bounds


class OffsetOutOfRange(LogError):
    def __init__(self, partition: Partition, offset: int, bounds: Bounds | None = None) -> None:
        kept = f"; it holds {bounds.oldest} to {bounds.end}" if bounds else ""
        super().__init__(
            f"offset {offset} of {partition.topic}/{partition.number} is out of range{kept}"
        )
        self.partition = partition
        self.offset = offset
        self.bounds = bounds


class LogTruncated(LogError):
    """The log holds other records than were read, from `end` on. `offset`: where the reader was."""

    def __init__(self, partition: Partition, offset: int, end: int) -> None:
        super().__init__(
            f"{partition.topic}/{partition.number} lost what was read from {end} to {offset}"
        )
        self.partition = partition
        self.offset = offset
        self.end = end
