"""Settings: one YAML file -> frozen, typed sections. Unknown keys and bad values are refused.

`load` reports every problem at once, each with the path of the setting. A component is given its
own section and nothing else; nothing reads settings after start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

import msgspec

from eventstreams.contradictions import contradictions
from eventstreams.errors import ConfigError
from eventstreams.yaml_file import read_yaml, texts

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
SchemaName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,63}\Z")]
SchemaVersion = Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}\.\d{1,9}\.\d{1,9}\Z")]
HeaderValue = Annotated[str, msgspec.Meta(pattern=r"^[\t -~\xa0-\xff]+\Z")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the settings file."""


Compression = Literal["always", "browsers", "asked", "never"]


class HttpSettings(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 8092
    """0 lets the system choose."""
    cors: HeaderValue | Literal[False] = "*"
    """The value of Access-Control-Allow-Origin; false sends no CORS headers."""
    csp: HeaderValue | Literal[False] = (
        "default-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    compression: Compression = "browsers"
    """Who gets compressed streams: whoever accepts them, browsers and those who ask by `compress=`,
    those who ask only, or nobody."""
    trusted_proxies: tuple[Text, ...] = ("127.0.0.0/8", "::1")
    """Addresses and networks whose X-Client-IP or X-Forwarded-For is believed."""
    event_source_refusals: Literal["stream", "status"] = "stream"
    """What a browser's EventSource gets where it is refused, for it gives up on any other status.
    stream: 200, when to come back and why, or 204 where coming back has no use; status: as all."""
    access_log: bool = True
    """A line when a stream ends: who read what, how much, how long, and why it ended."""
    client_addresses: Literal["shortened", "whole"] = "shortened"
    """In that line and in the list of clients: the network (/24, IPv6 /48), or the address."""
    homepage: str | None = None
    """Where `/_info/home` leads."""
    backlog: Count = 4096
    """Connections the kernel may hold before they are accepted."""
    tls_certfile: Text | None = None
    """A certificate and its chain, in PEM: connections are encrypted then, and plain ones refused.
    SIGHUP reads it and its key again."""
    tls_keyfile: Text | None = None
    """The private key of `tls_certfile`, in PEM."""
    tls_keyfile_password_file: Text | None = None
    """A file that holds only the password of `tls_keyfile`."""


class SqliteSettings(Section, frozen=True):
    retention_age_s: Seconds | None = 7 * 86400.0
    """Records older than this (by time of appending) are dropped; null keeps them."""
    retention_bytes: Bytes | None = 10 * 2**30
    """Most bytes of record values kept over all partitions; null keeps all."""
    retention_every_s: Seconds = 60.0
    partitions_per_topic: Count = 1
    """Of a topic that is made on its first append."""
    sync: Literal["full", "normal"] = "full"
    """full: an acknowledged append survives power loss; normal: only the end of the process."""
    busy_timeout_s: Seconds = 5.0
    """How long to wait for another process that writes to the same file."""
    record_bytes_max: Bytes = 16 * 2**20


class KafkaSettings(Section, frozen=True):
    bootstrap_servers: tuple[Text, ...] = ()
    """host:port, at least one when the log is Kafka."""
    client_id: Text = "eventstreams"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password_file: str | None = None
    """A file that holds only the password; passwords do not stand in settings."""
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    history_readers: Count = 2
    """Connections that read history beside the one consumer that follows the ends."""
    request_timeout_s: Seconds = 10.0
    """How long one call may wait for the brokers before it is given up as LogUnavailable."""
    fetch_bytes_max: Bytes = 4 * 2**20
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Of what this process appends."""


class LogSettings(Section, frozen=True):
    backend: Literal["sqlite", "memory", "kafka"] = "sqlite"
    data_dir: Text = "data"
    """Where the embedded log keeps its file; relative to the working directory."""
    future_max_s: Seconds = 3600.0
    """A record whose timestamp is further ahead is stored with the time of appending."""
    sqlite: SqliteSettings = SqliteSettings()
    kafka: KafkaSettings = KafkaSettings()


class FanoutSettings(Section, frozen=True):
    tail_bytes_max: Bytes = 32 * 2**20
    """Newest events kept in memory, over all partitions."""
    cache_bytes_max: Bytes = 64 * 2**20
    """History kept in memory for clients that catch up: records, and bytes ready to send."""
    block_bytes: Bytes = 512 * 2**10
    """How much history one read of the log asks for."""
    batch_bytes_max: Bytes = 128 * 2**10
    """Most bytes in one write to one client; an event larger than this goes alone."""
    catch_up_slots: Count = 8
    """Clients that read history at the same time; others wait their turn."""
    pace_max_ms: Milliseconds = 100
    """Longest that a loaded gateway lets events gather before it writes them."""
    heartbeat_s: Seconds = 15.0
    stall_timeout_s: Seconds = 60.0
    """A client whose connection takes no byte for this long is closed."""
    filter_share: Share = 0.25
    """Of one processor: how much of it a stream that reads alone may take to choose its events;
    beyond it the stream is slowed."""
    filter_patience_s: Seconds = 60.0
    """How long a stream that is slowed may fall behind before it is ended."""
    log_patience_s: Seconds = 30.0
    """How long streams stay open while the log is out of reach."""
    refresh_s: Seconds = 10.0
    """How often topics and partitions are looked up anew."""
    drain_s: Seconds = 5.0
    """Time over which streams are ended when the process is told to stop."""
    drain_notice_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Before that: how long it is not ready and still takes clients, so that those who send them
    can take notice."""


class LimitSettings(Section, frozen=True):
    connections_max: Count = 16000
    """Of one process; beyond it new connections get 503. Lowered at start to what the open-file
    limit allows."""
    streams_max: Count | None = None
    """Streams open at the same time, over all workers, and hosts where they share."""
    client_ip_connections: Count | None = None
    """Concurrent streams per client address (IPv6: per /64), over all workers and hosts that
    share; when set, a trusted proxy must name it."""
    client_ip_connects_per_minute: Count | None = None
    """How often such a client may open a stream, at once or spread."""
    client_ip_catch_up_bytes_per_minute: Bytes | None = None
    """Bytes of the past that such a client is sent, or has examined and is not sent; beyond it its
    streams are slowed."""
    filters_max: Count = 500
    """Different filters in one process at the same time; each is tried on every event."""
    head_bytes_max: Bytes = 256 * 2**10
    """Of a request: its line and its headers (ids can be long). Of these, 65,535 for the URL."""


class SharedSettings(Section, frozen=True):
    """Limits and tickets that hold across hosts; those of one host's workers hold without."""

    redis_url: Text | None = None
    """redis://, rediss:// or unix://, without a password in it."""
    redis_password_file: str | None = None
    """A file that holds only the password; passwords do not stand in settings."""
    prefix: Text = "eventstreams:"
    """Of every key there."""
    timeout_s: Seconds = 0.25
    """How long it may take to answer; without it each process counts what is its own."""


class AccessSettings(Section, frozen=True):
    """Who may read streams that need a scope, and who may post."""

    jwks_file: str | None = None
    """Public keys of those who issue tokens (RS256, ES256, EdDSA), as a JSON Web Key Set."""
    jwks_url: str | None = None
    """The same over HTTPS; asked for again when a token names a key that is not known."""
    jwks_refresh_s: Seconds = 300.0
    """How long keys are taken for the newest."""
    hs256_secret_file: str | None = None
    """A secret of 32 bytes or more shared with the issuer, for tests."""
    issuer: str | None = None
    """What `iss` must be; null: anything."""
    audience: str | None = None
    """What `aud` must hold; null: tokens for any audience."""
    leeway_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How far the issuer's clock may be off."""
    cookie: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]+\Z")] | None = None
    """The cookie that may hold a token, as EventSource can't set headers; null: none."""
    ticket_s: Seconds = 30.0
    """How long a ticket for one request may lie unused."""
    admin_key_file: str | None = None
    """A key of 32 bytes or more for /v2/admin; null: there is no such thing."""
    producer_keys: str | None = None
    """A YAML file of who may post to which streams; null: everyone to all."""


class IntakeSettings(Section, frozen=True):
    compatibility: Literal["strict", "eventgate"] = "strict"
    """eventgate: its answers, also where they blame the service for a client's fault."""
    topic_prefix: str | None = None
    """Put before a stream's name to make its topic, if that is one of its topics; null: the first
    of its topics."""
    error_stream: Text | None = None
    """Where events that say why others were refused go; null: nowhere."""
    emitter_id: Text = "eventstreams"
    """Who those events say that they come from."""
    error_events_per_s: Count = 100
    """At most so many in a second, and half of what is left for one address; more are counted."""
    body_bytes_max: Bytes = 4 * 2**20
    """Of a request, unpacked."""
    body_timeout_s: Seconds = 10.0
    """How long the body of a request may take to come."""
    body_bytes_per_s_min: Bytes = 4096
    """How fast a body must come on average once 3 s have passed, and its answer be read."""
    event_bytes_max: Bytes = 2**20
    """Of one event; brokers refuse more unless told otherwise."""
    events_max: Count = 10_000
    """Of one request."""
    event_values_max: Count = 10_000
    """Values in one event, with its defaults. Some work on an event cannot be interrupted."""
    depth_max: Count = 64
    """How deep objects and lists of an event may nest."""
    in_flight_bytes_max: Bytes = 32 * 2**20
    """What has come of bodies being taken at the same time, and answers that are not written yet;
    beyond it requests get 503."""
    client_in_flight_bytes_max: Bytes = 8 * 2**20
    """The share of it that one client address (IPv6: /64) may have; beyond it, 429."""
    client_bodies_max: Count = 256
    """Bodies that one client address may be posting at the same time; beyond it, 429."""
    schema_retry_s: Seconds = 10.0
    """How long a schema that was not found is not looked for again."""
    canary_every_s: Seconds | None = 600.0
    """How often streams with canary_events_enabled get a canary event; null: never."""
    test_events: tuple[dict[str, Any], ...] = ()
    """What GET /v1/_test/events posts; without any it is not there."""


class LegacySettings(Section, frozen=True):
    """Clients of EventLogging, which GET or POST /beacon/event."""

    schemas: dict[SchemaName, SchemaVersion] = {}
    """Schemas of EventLogging that may be posted by anyone, and for each the version of the schema
    `analytics/legacy/NAME` that takes its events; without any there is no /beacon/event."""
    query_bytes_max: Bytes = 8192
    """Of the query of one request."""


class MetricsSettings(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port | None = None
    """Where Prometheus may scrape; null serves no metrics."""


class DemoSettings(Section, frozen=True):
    stream: Text | None = None
    """The stream that the demo feed appends to; null means there is no demo feed."""
    rate: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """Synthetic events a second."""


class Settings(Section, frozen=True):
    catalogue: Text = "streams.yaml"
    """The stream catalogue; relative to the settings file."""
    catalogue_refresh_s: Seconds = 5.0
    """How often its file is looked at for changes; SIGHUP does it at once."""
    schemas: tuple[Text, ...] = ("schemas",)
    """Schema repositories, the first one that has a schema gives it: folders, relative to the
    settings file."""
    only: Literal["gateway", "intake"] | None = None
    """The part to serve; null: both."""
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    fanout: FanoutSettings = FanoutSettings()
    limits: LimitSettings = LimitSettings()
    shared: SharedSettings = SharedSettings()
    access: AccessSettings = AccessSettings()
    intake: IntakeSettings = IntakeSettings()
    legacy: LegacySettings = LegacySettings()
    metrics: MetricsSettings = MetricsSettings()
    demo: DemoSettings = DemoSettings()


def load(path: Path) -> Settings:
    """Reads a settings file. Raises ConfigError with every problem found."""
    settings, problems = read(path)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return settings


def read(path: Path) -> tuple[Settings, list[str]]:
    """Settings as far as they are good, the rest as it is by default; and what is wrong with the
    file. Raises ConfigError where nothing can be said of the rest."""
    document = read_yaml(path)
    if document is None:
        document = {}
    if problems := list(_with_nul(document)):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    sound = _sound(document, Settings, "", problems)
    settings = msgspec.convert(sound, Settings)
    return settings, problems + beside(problems, contradictions(settings))


def beside(problems: Iterable[str], further: Iterable[str]) -> list[str]:
    """Those further ones that do not come of settings which were left out."""
    left_out = [problem.partition(":")[0] for problem in problems]
    return [each for each in further if not any(name in each for name in left_out)]


def _with_nul(document: Any) -> Iterator[str]:
    """No path, address or name may have one; the system's calls refuse it when it is too late."""
    for place, text in texts(document, "", set()):
        if "\0" in text:
            yield f"{place}: holds a NUL"


def _sound(value: Any, kind: Any, path: str, problems: list[str]) -> Any:
    """What of it is good. Walks sections so that all problems are found; msgspec stops at one.
    Raises ValidationError where it is no section, and wrong."""
    section = _section_of(kind)
    if section is None:
        msgspec.convert(value, kind)
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'the file'}: expected a mapping of settings, got {_name(value)}")
        return {}
    hints = get_type_hints(section, include_extras=True)
    sound: dict[str, Any] = {}
    for key, item in cast("Mapping[Any, Any]", value).items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            problems.append(f"{where}: unknown setting; known here: {', '.join(sorted(hints))}")
            continue
        try:
            sound[key] = _sound(item, hints[key], where, problems)
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {_readable(error)}")
    return sound


def _section_of(kind: Any) -> type[Section] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _readable(error: msgspec.ValidationError) -> str:
    text = str(error)
    return text[0].lower() + text[1:].removesuffix(" - at `$`")


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def describe(kind: type[Section] = Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's path and default, for documentation and its test."""
    for field in msgspec.structs.fields(kind):
        where = f"{path}.{field.name}" if path else field.name
        section = _section_of(field.type)
        if section is not None:
            yield from describe(section, where)
        elif field.default_factory is not msgspec.NODEFAULT:
            yield where, field.default_factory()
        else:
            yield where, field.default
