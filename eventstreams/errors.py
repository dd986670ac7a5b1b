"""All errors that this package raises on purpose.

EventStreamsError
├── ConfigError            settings or catalogue are wrong; lists every problem
├── ClientError            a request is refused; counted, but not logged as a fault
│   ├── ServiceProblem         {"status", "type", "title", "detail", "method", "uri"} as JSON
│   │   ├── UnknownStream          400 not_found
│   │   ├── InvalidTimestamp       400 invalid_timestamp
│   │   ├── InvalidFilter          400 invalid_filter
│   │   ├── FiltersUnavailable     501 filters_unavailable: the CEL runtime is not installed
│   │   ├── InvalidFields          400 invalid_fields
│   │   ├── InvalidSample          400 invalid_sample
│   │   ├── MissingClientAddress   400 bad_request
│   │   ├── TooManyConnections, TooManyConnects   429 too_many_requests: open, and per minute
│   │   ├── Unauthorized           401 unauthorized; InvalidToken: invalid token, ticket or key
│   │   ├── Forbidden              403 forbidden: the token or key lacks a permission
│   │   ├── AccessUnavailable      503 unavailable: keys or tickets cannot be looked up
│   │   ├── InvalidParameter       400 invalid_parameter: limit, heartbeat, compress, ...
│   │   ├── GatewayFull            503 unavailable; GatewayStopping: while draining
│   │   ├── BadBody                400 bad_body: not JSON, not UTF-8, not what its headers say
│   │   ├── NoSuchSchema           404 not_found
│   │   ├── BrokenSchema           422 broken_schema: an operator must correct it
│   │   ├── BodyTimeout            408 body_timeout
│   │   ├── BodyTooLarge           413 body_too_large: in bytes or events
│   │   ├── UnsupportedBody        415 unsupported_body: content type, charset or coding
│   │   ├── BadRequest, UriTooLong, HeadTooLarge, UnwantedBody, TinyRecords
│   │   │                          400, 414, 431, 413: refused before the application
│   │   ├── IntakeShareUsed        429 too_many_requests: one client's share of the intake
│   │   └── IntakeFull             503 unavailable: the intake has too much to do
│   ├── GapFound               410: events are missing, and the request said gap=fail
│   └── AssignmentProblem      the second body shape: reason phrase "Name: message", no type
│       ├── InvalidAssignment      400
│       ├── TopicNotAvailable      404
│       ├── ConfigurationFault     500: none of the topics of the request exist
│       └── LogUnreachable         503: the log did not answer in time
├── FilterTooCostly        selecting events exceeds a stream's share of time; the stream ends
├── SchemaError            schemas are invalid; lists every problem
│   ├── SchemaNotFound         there is no schema at this URI
│   └── BadSchemaUri           not a possible URI of a schema in a repository
├── ProducerClosed         an event was put, or awaited, after the producer had ended
├── RelayFault             a relay cannot continue with what its upstream or bookmark contains
│   └── UpstreamRefused        the upstream refuses the relay, and would again
├── SseEventTooLarge       an event of another gateway's stream exceeds the limit
├── QuotaUnavailable       the shared limit counters cannot be reached
├── OutboxError            the outbox is unusable: in use, damaged, or the disk is full
└── LogError               a backend of the log failed
    ├── LogUnavailable         temporary: broker unreachable, database locked
    │   └── LogFilesLost           the embedded log's open files were deleted or replaced
    ├── AppendRefused          nothing was appended: record too large, ...
    │   └── LogUnwritable          no record can be appended: disk full, read-only, ...
    ├── BookmarkLost           another owner has claimed the bookmark
    ├── LogCorrupt             the file is not a log, or is damaged; an operator must act
    ├── RecordsDamaged         some records differ from what was written
    ├── UnknownTopic           the topic does not exist, or was deleted
    ├── UnknownPartition       the topic exists but has no such partition
    ├── OffsetOutOfRange       before the oldest kept record, or beyond the end
    ├── GapRecorded            a record says that events before it are missing
    └── LogTruncated           the end of a partition was lost and its offsets were reused

A backend translates the errors of its library into LogErrors; no other package imports that
library. The web layer turns ClientErrors into responses in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstreams.model.event import Bounds, Partition
    from eventstreams.model.problem import Problem


class EventStreamsError(Exception):
    """The base class of all errors of this package."""


class ConfigError(EventStreamsError):
    """Settings or catalogue are wrong.

    `problems` holds one line per problem, each beginning with the path of the setting.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ClientError(EventStreamsError):
    """A request that is refused. `status` is the HTTP status of the response."""

    status: ClassVar[int] = 400


class FilterTooCostly(EventStreamsError):
    """Selecting a stream's events exceeds its share of time, and the stream falls behind."""


class SchemaError(EventStreamsError):
    """Schemas are invalid. `problems` lists every problem found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class SchemaNotFound(SchemaError):
    """There is no schema at this URI."""


class BadSchemaUri(SchemaError):
    """The URI is not a possible URI of a schema in a repository."""


class SseEventTooLarge(EventStreamsError):
    """An event of a stream that we read is larger than the reader's limit."""


class RelayFault(EventStreamsError):
    """A relay cannot continue. No event is lost, because its bookmark does not move."""


class UpstreamRefused(RelayFault):
    """The upstream refuses the relay, and would refuse it again."""


class QuotaUnavailable(EventStreamsError):
    """The shared limit counters and tickets cannot be reached."""


class ProducerClosed(EventStreamsError):
    """The producer has ended. The outcome of events that were being sent is unknown."""


class OutboxError(EventStreamsError):
    """The outbox cannot be used. Nothing was stored by the failed call."""


class ServiceProblem(ClientError):
    """Errors in the first of the two body shapes of KafkaSSE-based services: one JSON document."""

    type: ClassVar[str] = "bad_request"
    title: ClassVar[str] = "Bad Request"
    retry_after_s: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnknownStream(ServiceProblem):
    type = "not_found"
    title = "Stream Not Found"

    def __init__(self, names: list[str], hint: str = "") -> None:
        super().__init__(f"Invalid streams: {','.join(names)}{hint and f'; {hint}'}")
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


class RetryLater(ServiceProblem):
    """The client may retry after `retry_after_s` seconds; the response adds a random spread."""

    status = 503
    type = "unavailable"
    title = "Service Unavailable"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyConnections(RetryLater):
    status = 429
    type = "too_many_requests"
    title = "Too Many Concurrent Connections From Your Client IP"


class TooManyConnects(RetryLater):
    status = 429
    type = "too_many_requests"
    title = "Too Many Connects From Your Client IP"


class GatewayFull(RetryLater):
    pass


class GatewayStopping(GatewayFull):
    """The process is draining; another process can answer the same request."""


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


class IntakeFull(RetryLater):
    pass


class IntakeShareUsed(TooManyConnects):
    title = "Too Much Posted At Once From Your Client IP"


class GapFound(ClientError):
    """Some of the requested events are missing. `document` is the data of a gap frame."""

    status = 410

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document["message"])
        self.document = document


class AssignmentProblem(ClientError):
    """Errors of the requested topics, in the second body shape. `fields` are further keys of it."""

    retry_after_s: int | None = None

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    @property
    def name(self) -> str:
        """The name of the error in the response. Clients of KafkaSSE compare it."""
        return f"{type(self).__name__}Error"

    def body(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "origin": "KafkaSSE",  # the value that clients of KafkaSSE expect
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
    """A log backend failed. The message never contains bytes of a record."""


class LogUnavailable(LogError):
    """Set the unreachable partitions. None means the whole log."""

    def __init__(self, message: str, partitions: Iterable[Partition] = ()) -> None:
        super().__init__(message)
        self.partitions = frozenset(partitions)


class LogFilesLost(LogUnavailable):
    """Files of the embedded log were deleted, replaced or truncated while in use."""


class AppendRefused(LogError):
    pass


class LogUnwritable(AppendRefused):
    pass


class BookmarkLost(LogError):
    """Another owner has claimed the bookmark; nothing was appended."""


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
    """The records from `offset` up to, but not including, `following` are damaged."""

    def __init__(self, partition: Partition, offset: int, following: int, bounds: Bounds) -> None:
        last = f" to {following - 1}" if following > offset + 1 else ""
        super().__init__(
            f"{partition.topic}/{partition.number} is damaged at offset {offset}{last}:"
            " the stored bytes differ from those that were written"
        )
        self.partition = partition
        self.offset = offset
        self.next = following
        self.bounds = bounds


class OffsetOutOfRange(LogError):
    def __init__(self, partition: Partition, offset: int, bounds: Bounds | None = None) -> None:
        kept = f"; the log holds {bounds.oldest} to {bounds.end}" if bounds else ""
        super().__init__(
            f"offset {offset} of {partition.topic}/{partition.number} is out of range{kept}"
        )
        self.partition = partition
        self.offset = offset
        self.bounds = bounds


class GapRecorded(LogError):
    """A reader has reached a gap marker. `document` describes the missing events."""

    def __init__(
        self,
        partition: Partition,
        offset: int,
        document: dict[str, Any],
        *,
        timestamp_ms: int,
        epoch: int,
    ) -> None:
        self.partition = partition
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.epoch = epoch
        self.document = document
        super().__init__(f"a gap is recorded in {self.partition.topic} at {self.offset}")


class LogTruncated(LogError):
    """From `end` on, the log holds other records than were read. The reader was at `offset`."""

    def __init__(self, partition: Partition, offset: int, end: int) -> None:
        super().__init__(
            f"{partition.topic}/{partition.number} lost the records that were read from {end} "
            f"to {offset}"
        )
        self.partition = partition
        self.offset = offset
        self.end = end


class Unauthorized(ServiceProblem):
    status = 401
    type = "unauthorized"
    title = "Unauthorized"
    challenge: ClassVar[bytes] = b"Bearer"


class InvalidToken(Unauthorized):
    """An invalid token, ticket or key. The detail contains no part of it."""

    challenge = b'Bearer error="invalid_token"'


class Forbidden(ServiceProblem):
    status = 403
    type = "forbidden"
    title = "Forbidden"

    def __init__(self, lacking: list[str]) -> None:
        super().__init__(f"The token lacks the required scope: {' '.join(lacking)}")
        self.challenge = f'Bearer error="insufficient_scope", scope="{" ".join(lacking)}"'.encode()


class AccessUnavailable(RetryLater):
    pass


class BadRequest(ServiceProblem):
    """A malformed HTTP/1.1 request, or one that a proxy in front may interpret differently."""


class UriTooLong(ServiceProblem):
    status = 414
    type = "uri_too_long"
    title = "URI Too Long"


class HeadTooLarge(ServiceProblem):
    """Too many bytes or too many headers; trailers and chunk extensions count as well."""

    status = 431
    type = "head_too_large"
    title = "Request Header Fields Too Large"


class UnwantedBody(ServiceProblem):
    """A body that the resource does not accept, or in pieces too small to be read economically."""

    status = 413
    type = "unwanted_body"
    title = "Content Too Large"


class TinyRecords(ServiceProblem):
    """TLS records too small to be decrypted economically."""

    type = "tiny_records"
    title = "TLS Records Too Small"
