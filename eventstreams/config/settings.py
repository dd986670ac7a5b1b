"""Settings: read one YAML file into frozen, typed sections.

The docstring under a field is the description of that setting; `scripts/docs` writes
`docs/settings.md` from it. Each component receives its own section and nothing else.
`validation.py` reads the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
FileName = Annotated[str, msgspec.Meta(min_length=1, extra={"is_path": True})]
"""The path of a file or folder. `with_paths_from` resolves relative ones."""
SchemaName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,63}\Z")]
RelayName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,100}\Z")]
SchemaVersion = Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}\.\d{1,9}\.\d{1,9}\Z")]
PropagationUrl = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/?#\s]+/?\Z")]
HeaderValue = Annotated[str, msgspec.Meta(pattern=r"^[\t -~\xa0-\xff]+\Z")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One section of the settings file."""


Compression = Literal["always", "browsers", "asked", "never"]


class HttpSettings(Section, frozen=True):
    """How the gateway listens for HTTP, and what its responses contain."""

    host: str = "127.0.0.1"
    """The address to listen on. Set `0.0.0.0` to accept connections from other machines."""
    port: Port = 8092
    """The port to listen on. With 0 the system chooses a free port."""
    cors: HeaderValue | Literal[False] = "*"
    """The value of `Access-Control-Allow-Origin`. Name one site to let its pages send cookies;
    `false` sends no CORS headers."""
    csp: HeaderValue | Literal[False] = (
        "default-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    """The `Content-Security-Policy` of every response. `false` sends none."""
    compression: Compression = "browsers"
    """Which streams are compressed. `always`: every client that accepts it; `browsers`: browsers,
    and clients that ask with `compress=`; `asked`: only clients that ask; `never`: none. Choose
    `never` if a proxy compresses."""
    trusted_proxies: tuple[Text, ...] = ("127.0.0.0/8", "::1")
    """Addresses and networks of your proxies. Only their `X-Client-IP` and `X-Forwarded-For`
    headers are trusted to name the client."""
    event_source_refusals: Literal["stream", "status"] = "stream"
    """How a refused request of a browser's EventSource is answered; EventSource gives up
    on any status but 200. `stream`: 200 with the reason and a time to reconnect, or 204 if
    reconnecting cannot help; `status`: the error status, as for other clients."""
    access_log: bool = True
    """Whether to log one line when a stream ends: client, streams, events, bytes, duration and the
    reason it ended."""
    client_addresses: Literal["shortened", "whole"] = "shortened"
    """How client addresses appear in the access log and in the list of clients. `shortened`: only
    the network (IPv4 /24, IPv6 /48); `whole`: the address."""
    homepage: str | None = None
    """The URL that `/_info/home` redirects to. `null`: it answers 404."""
    backlog: Count = 4096
    """How many connections the kernel queues before the gateway accepts them. Raise it if many
    clients connect at once."""
    tls_certfile: FileName | None = None
    """A PEM file with the certificate chain, the gateway's own certificate first. If set, the
    gateway accepts only TLS on its port. SIGHUP reads the file and its key again."""
    tls_keyfile: FileName | None = None
    """A PEM file with the private key of `tls_certfile`."""
    tls_keyfile_password_file: FileName | None = None
    """A file that contains only the password of `tls_keyfile`."""


class SqliteSettings(Section, frozen=True):
    """The embedded log."""

    retention_age_s: Seconds | None = 7 * 86400.0
    """How long records are kept, in seconds since they were appended. `null` keeps them regardless
    of age."""
    retention_bytes: Bytes | None = 10 * 2**30
    """How many bytes of record values are kept over all partitions. The oldest records are deleted
    first. `null` sets no limit."""
    retention_every_s: Seconds = 60.0
    """The time between two deletions of expired records."""
    partitions_per_topic: Count = 1
    """The number of partitions of a topic, which is created by its first append. It does not change
    existing topics."""
    sync: Literal["full", "normal"] = "full"
    """What an acknowledged append survives. `full`: loss of power; `normal`, which is faster: only
    the end of the process."""
    busy_timeout_s: Seconds = 5.0
    """How long to wait while another process writes to the same file."""
    record_bytes_max: Bytes = 16 * 2**20
    """The largest record that the log accepts."""


class KafkaSettings(Section, frozen=True):
    """Apache Kafka as the log."""

    bootstrap_servers: tuple[Text, ...] = ()
    """Brokers as `host:port`. One that answers is enough to find the others. Required if
    `log.backend` is `kafka`."""
    client_id: Text = "eventstreams"
    """The name under which this process appears in the brokers' logs and quotas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether connections to brokers are encrypted (SSL) and authenticated with a user name
    (SASL)."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """The mechanism by which SASL verifies the password."""
    sasl_username: str | None = None
    """The user name. Required with SASL."""
    sasl_password_file: FileName | None = None
    """A file that contains only the password. Required with SASL."""
    ssl_cafile: FileName | None = None
    """A PEM file with the authorities that sign the brokers' certificates. `null` uses those of the
    system."""
    ssl_certfile: FileName | None = None
    """A PEM file with this client's certificate. Set it together with `ssl_keyfile` if brokers
    authenticate clients by certificate."""
    ssl_keyfile: FileName | None = None
    """A PEM file with the private key of `ssl_certfile`."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must name the broker's host."""
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    """`read_committed` omits records of aborted transactions; `read_uncommitted` includes them."""
    history_readers: Count = 2
    """How many connections read history. Following the newest records uses one more. Raise it if
    clients that catch up wait while the brokers have capacity left."""
    request_timeout_s: Seconds = 10.0
    """How long a call waits for the brokers before the log counts as unreachable."""
    fetch_bytes_max: Bytes = 4 * 2**20
    """The most bytes that one fetch requests."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """How the records that this process appends are compressed."""


class LogSettings(Section, frozen=True):
    """Where events are stored."""

    backend: Literal["sqlite", "memory", "kafka"] = "sqlite"
    """`sqlite`: embedded, in one file; `memory`: lost when the process ends, for tests; `kafka`:
    Apache Kafka, for several workers or hosts."""
    data_dir: FileName = "data"
    """The folder of the embedded log."""
    future_max_s: Seconds = 3600.0
    """How far ahead of the clock a record's timestamp may be. A record further ahead is stored with
    the time of appending, because it would mislead `since` and `until`; Kafka 4 rejects such
    records by default."""
    sqlite: SqliteSettings = SqliteSettings()
    kafka: KafkaSettings = KafkaSettings()


class FanoutSettings(Section, frozen=True):
    """How events get from the log to clients."""

    tail_bytes_max: Bytes = 32 * 2**20
    """Memory for the newest events of all partitions. Raise it if many clients fall behind and read
    the log again."""
    cache_bytes_max: Bytes = 64 * 2**20
    """Memory for history that clients catch up on: records, and rendered bytes ready to send. Raise
    it if many clients read the same history."""
    block_bytes: Bytes = 512 * 2**10
    """How many bytes of history one read of the log requests."""
    batch_bytes_max: Bytes = 128 * 2**10
    """The most bytes in one write to one client. A larger event is written by itself."""
    catch_up_slots: Count = 8
    """How many clients read history at the same time; the others wait for their turn. Raise it if
    `eventstreams_catch_up_waiting` stays above 0 and the processor has time left."""
    pace_max_ms: Milliseconds = 100
    """The longest time that a loaded gateway collects events before it writes them. A higher value
    saves processor time, a lower value reduces delay under load."""
    heartbeat_s: Seconds = 15.0
    """How long a stream may be quiet before it gets a comment, which keeps proxies from closing it.
    Keep it below their idle timeout."""
    stall_timeout_s: Seconds = 60.0
    """How long a client may accept no byte before its stream is closed. It can resume later by its
    id."""
    filter_share: Share = 0.25
    """The share of one processor that filtering for a single stream may use. A stream that needs
    more is slowed down. See also `limits.filters_share`."""
    filter_patience_s: Seconds = 60.0
    """How long a stream that is slowed down may fall further behind before it ends with
    `FilterTooCostly`."""
    log_patience_s: Seconds = 30.0
    """How long streams stay open while the log is unreachable."""
    refresh_s: Seconds = 10.0
    """How often the gateway looks for new topics and partitions."""
    drain_s: Seconds = 5.0
    """The time over which open streams are ended when the process stops. Use 20 or more with many
    thousands of clients, so that they do not reconnect all at once."""
    drain_notice_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long, before `drain_s` starts, `/readyz` answers 503 while clients are still accepted.
    Set it if your load balancer needs time to notice."""


class LimitSettings(Section, frozen=True):
    """What all clients, or one client address, may use. An address is an IPv4 address or an IPv6
    /64 network."""

    connections_max: Count = 16000
    """TCP connections of one process. Beyond it, the connection that has been idle longest is
    closed; if none is idle, one of the client that has the most requests in progress. The new one
    is answered with 503 if neither is possible. Lowered at start to what the limit of open files
    allows."""
    streams_max: Count | None = None
    """Streams open at the same time over all workers, and over all hosts that share limits. Further
    streams are answered with 503."""
    client_ip_connections: Count | None = None
    """Streams that one client address may have open at the same time, over all workers and hosts
    that share limits. Further streams are answered with 429. If this or another limit per address
    is set, trusted proxies must name the client."""
    client_ip_connects_per_minute: Count | None = None
    """How many streams one client address may open in a minute. Tickets and `/v2/explain` count
    too."""
    client_ip_catch_up_bytes_per_minute: Bytes | None = None
    """How many bytes of history one client address may read in a minute, including bytes that its
    filter discards. Beyond it, the client's streams are slowed down."""
    filters_share: Share = 0.5
    """The share of one processor that filters may use together in one process. What the index
    rules out costs nothing. Beyond it, filters that must be evaluated for every event are delayed;
    if they fall behind for `fanout.filter_patience_s`, the costliest end with `FilterTooCostly`."""
    head_bytes_max: Bytes = 256 * 2**10
    """The most bytes in the request line and headers together. The URL may take up to 65,535 of
    them, because ids can be long."""


class SharedSettings(Section, frozen=True):
    """Redis, through which several hosts share limits and tickets. The workers of one host share
    theirs without it."""

    redis_url: Text | None = None
    """`redis://`, `rediss://` or `unix://`, without a password. All hosts must name the same
    Redis."""
    redis_password_file: FileName | None = None
    """A file that contains only the password."""
    prefix: Text = "eventstreams:"
    """The prefix of all keys in Redis. Set different ones if several deployments use one Redis."""
    timeout_s: Seconds = 0.25
    """How long Redis may take to answer. After that, each process enforces its limits alone."""


class AccessSettings(Section, frozen=True):
    """Who may read streams that need a scope, and who may post."""

    jwks_file: FileName | None = None
    """A JSON Web Key Set with the public keys of the token issuer (RS256, ES256, EdDSA). Excludes
    `jwks_url`."""
    jwks_url: str | None = None
    """The HTTPS address of such a key set. It is fetched again when a token names an unknown
    key."""
    jwks_refresh_s: Seconds = 300.0
    """How long fetched keys are used before they are fetched again."""
    hs256_secret_file: FileName | None = None
    """A file with a secret of at least 32 bytes that is shared with the issuer. For tests only."""
    issuer: str | None = None
    """The required value of a token's `iss`. `null` accepts any issuer; set it in production."""
    audience: str | None = None
    """The value that a token's `aud` must contain. `null` accepts any; set it in production, so
    that tokens for other services are rejected."""
    leeway_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How much the clocks of the issuer and this host may differ."""
    cookie: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]+\Z")] | None = None
    """The name of a cookie that may contain a token, because EventSource cannot set headers.
    `null`: no cookie is read."""
    ticket_s: Seconds = 30.0
    """How long a ticket can be used after it was issued. A ticket opens one stream."""
    admin_key_file: FileName | None = None
    """A file with a key of at least 32 bytes that gives access to `/v2/admin`. `null`: it is
    switched off."""
    producer_keys: FileName | None = None
    """A YAML file that says who may post to which streams. `null` lets everyone post to every
    stream."""


class IntakeSettings(Section, frozen=True):
    """How posted events are checked and stored."""

    compatibility: Literal["strict", "eventgate"] = "strict"
    """`eventgate` answers as EventGate does, even where EventGate reports a client's mistake as a
    failure of the service."""
    topic_prefix: str | None = None
    """The prefix of this data centre, such as `eqiad.`. An event goes to the topic with prefix and
    stream name if the stream has it, else to the stream's first topic."""
    error_stream: Text | None = None
    """The stream that receives an event about each rejected event. `null`: none."""
    emitter_id: Text = "eventstreams"
    """The `emitter_id` of those error events."""
    error_events_per_s: Count = 100
    """The most error events in one second. One client address gets at most half of those that are
    left; the others are only counted."""
    body_bytes_max: Bytes = 4 * 2**20
    """The largest request body, after decompression."""
    body_timeout_s: Seconds = 10.0
    """How long a client may take to send a request body."""
    body_bytes_per_s_min: Bytes = 4096
    """The lowest average speed, in bytes a second, at which a client must send its body and read
    its response, once 3 s have passed."""
    event_bytes_max: Bytes = 2**20
    """The largest event. Kafka brokers reject larger records unless `message.max.bytes` is
    raised."""
    events_max: Count = 10_000
    """The most events in one request."""
    event_values_max: Count = 10_000
    """The most values in one event, defaults included. It bounds the work on one event, which
    cannot be interrupted."""
    depth_max: Count = 64
    """How deep objects and lists in an event may be nested."""
    in_flight_bytes_max: Bytes = 24 * 2**20
    """Memory for the requests being received: their bodies, the events parsed from them, and the
    responses not yet sent. Beyond it, requests are answered with 503."""
    client_in_flight_bytes_max: Bytes = 8 * 2**20
    """The part of `in_flight_bytes_max` that one client address (IPv6: /64) may use. Beyond it, its
    requests are answered with 429."""
    client_bodies_max: Count = 256
    """How many bodies one client address may post at the same time. Further requests are answered
    with 429."""
    schema_retry_s: Seconds = 10.0
    """How long the gateway waits before it looks again for a schema that it did not find."""
    canary_every_s: Seconds | None = 600.0
    """How often each stream with `canary_events_enabled` gets a canary event. `null`: never."""
    test_events: tuple[dict[str, Any], ...] = ()
    """The events that `GET /v1/_test/events` posts. If empty, that route does not exist."""


class LegacySettings(Section, frozen=True):
    """Clients of [EventLogging](eventlogging.md), which GET or POST `/beacon/event`."""

    schemas: dict[SchemaName, SchemaVersion] = {}
    """The EventLogging schemas that anyone may post, and for each the version of the schema
    `analytics/legacy/NAME` that validates its events: `{Test: 1.0.0}`. If empty, `/beacon/event`
    does not exist."""
    query_bytes_max: Bytes = 8192
    """The longest query of a request to `/beacon/event`."""


class RelaySettings(Section, frozen=True):
    """Another gateway to follow, whose events are appended to this log."""

    url: Text
    """The URL of the gateway, or of streams of it."""
    streams: tuple[Text, ...] | dict[Text, Text] = ()
    """The names of the streams at the gateway; a mapping gives each a name here. If empty, the URL
    must name the streams."""
    since: Text | None = None
    """Where the first start begins, as in `since=`. `null`: with the next event."""
    filter: Text | None = None
    """A filter for the upstream to apply. Only upstreams that run eventstreams support it."""
    canaries: bool = True
    """Whether to relay the upstream's canary events."""
    contact: HeaderValue | None = None
    """Your contact address for the User-Agent header, which public upstreams require."""
    token_file: FileName | None = None
    """A file with an access token. It is read again for each connection."""
    stall_timeout_s: Seconds = 60.0
    """How long a connection may be silent before it is replaced."""
    event_bytes_max: Bytes = 16 * 2**20
    """The largest event. The relay stops before a larger one."""


class MetricsSettings(Section, frozen=True):
    """Metrics for Prometheus."""

    host: str = "127.0.0.1"
    """The address on which metrics are served."""
    port: Port | None = None
    """The port on which metrics are served; worker N of `--workers` uses `port` + N. `null` serves
    no metrics."""


class DemoSettings(Section, frozen=True):
    """A synthetic feed, to try the gateway without producers."""

    stream: Text | None = None
    """The stream that receives synthetic recent changes. `null`: no demo feed."""
    new_pages_stream: Text | None = None
    """The stream that receives an event for each synthetic recent change that creates a page.
    `null`: none."""
    rate: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """Synthetic recent changes a second. 0 sends none."""


class Settings(Section, frozen=True):
    """All settings of the file."""

    catalogue: FileName = "streams.yaml"
    """The file of the stream catalogue."""
    catalogue_refresh_s: Seconds = 5.0
    """How often the gateway checks whether that file has changed. SIGHUP reads it at once."""
    schemas: tuple[FileName, ...] = ("schemas",)
    """Folders of schema repositories. The first folder that contains a schema provides it."""
    only: Literal["gateway", "intake"] | None = None
    """Serve one part alone: `gateway` serves streams, `intake` accepts events. `null`: both."""
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    fanout: FanoutSettings = FanoutSettings()
    limits: LimitSettings = LimitSettings()
    shared: SharedSettings = SharedSettings()
    access: AccessSettings = AccessSettings()
    intake: IntakeSettings = IntakeSettings()
    legacy: LegacySettings = LegacySettings()
    propagation: tuple[PropagationUrl, ...] = ()
    """The addresses of `eventstreams propagate --port` processes, like `http://127.0.0.1:8093`. The
    [operators' page](operations.md#the-operators-page) shows their rules."""
    relays: dict[RelayName, RelaySettings] = {}
    """Gateways to follow. The key of each is the name under which the log stores its position.
    [Relays](relay.md#settings) lists the settings of each."""
    metrics: MetricsSettings = MetricsSettings()
    demo: DemoSettings = DemoSettings()


def section_of(kind: Any) -> type[Section] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def describe(kind: type[Section] = Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the default of every setting."""
    for field in msgspec.structs.fields(kind):
        where = f"{path}.{field.name}" if path else field.name
        section = section_of(field.type)
        if section is not None:
            yield from describe(section, where)
        elif field.default_factory is not msgspec.NODEFAULT:
            yield where, field.default_factory()
        else:
            yield where, field.default


S = TypeVar("S", bound=Section)


def with_paths_from(section: S, folder: Path) -> S:
    """Return the section with every relative path in it taken from `folder`."""
    hints = get_type_hints(type(section), include_extras=True)
    placed = {
        name: _placed(value, folder, is_path=_names_paths(hints[name]))
        for name, value in msgspec.structs.asdict(section).items()
    }
    return msgspec.structs.replace(section, **placed)


def _placed(value: Any, folder: Path, *, is_path: bool) -> Any:
    if isinstance(value, Section):
        return with_paths_from(value, folder)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: _placed(each, folder, is_path=False) for key, each in items}
    if not is_path or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(str(folder / each) for each in cast("tuple[str, ...]", value))
    return str(folder / value)


def _names_paths(kind: Any) -> bool:
    """Return whether a setting of this type is a path, several, or none."""
    return kind == FileName or FileName in get_args(kind)
