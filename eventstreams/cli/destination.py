"""Finds the log, and the place in it, that a command appends to."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

import click
from msgspec.structs import replace

from eventstreams.cli.config import read_config
from eventstreams.config.settings import LogSettings
from eventstreams.model.catalogue import Catalogue


class Destination(NamedTuple):
    log: LogSettings
    topic: str
    partition: int | None
    event_time: bool
    """Whether records get the time of `meta.dt`, if present, rather than the time of appending."""


def log_name(log: LogSettings) -> str:
    """Return a description of the log for messages."""
    if log.backend == "kafka":
        return f"Kafka at {', '.join(log.kafka.bootstrap_servers)}"
    return f"the log in {Path(log.data_dir).resolve()}"


def log_summary(log: LogSettings) -> str:
    """Return the kind of the log and where it is, for a list of facts."""
    match log.backend:
        case "sqlite":
            return f"sqlite, in {Path(log.data_dir).absolute()}"
        case "kafka":
            return f"kafka, {', '.join(log.kafka.bootstrap_servers)}"
        case "memory":
            return "memory, lost when the process ends"


def has_embedded_log(data_dir: str) -> bool:
    return (Path(data_dir) / "log.sqlite3").is_file()


def find_destination(
    *,
    stream: str,
    topic: str | None,
    partition: int | None,
    timestamp: str,
    config: Path | None,
    data_dir: str | None,
    kafka: str | None,
) -> Destination:
    """Return the destination. Raises ConfigError, or click.UsageError if the catalogue does not
    have it."""
    settings, catalogue = read_config(config)
    return Destination(
        log_settings(settings.log, data_dir, kafka),
        _topic(catalogue, stream, topic),
        partition,
        timestamp == "meta",
    )


def _topic(catalogue: Catalogue, name: str, topic: str | None) -> str:
    if name not in catalogue.names:
        near = difflib.get_close_matches(name, catalogue.names)
        hint = f"did you mean {' or '.join(near)}?" if near else _listed(catalogue.names)
        raise click.UsageError(f"the catalogue has no stream {name!r}; {hint}")
    stream = catalogue.get(name)
    if topic is None:
        return stream.topics[0]
    if topic not in stream.topics_allowed:
        topics = _listed(sorted(stream.topics_allowed))
        raise click.UsageError(f"stream {stream.name} has no topic {topic!r}; {topics}")
    return topic


def _listed(names: list[str]) -> str:
    return f"there are: {', '.join(names)}"


def log_settings(log: LogSettings, data_dir: str | None, kafka: str | None) -> LogSettings:
    """Return the settings of the log, changed by these options. Raises click.UsageError."""
    if data_dir is not None and kafka is not None:
        raise click.UsageError("--data-dir and --kafka cannot be used together")
    if data_dir is not None:
        return _keeping_all(replace(log, backend="sqlite", data_dir=data_dir))
    if kafka is not None:
        servers = tuple(_server(server.strip()) for server in kafka.split(","))
        brokers = replace(log.kafka, bootstrap_servers=servers)
        return replace(log, backend="kafka", kafka=brokers)
    if log.backend == "memory":
        raise click.UsageError(
            "the settings use a log in memory, which other processes cannot access; "
            "use --data-dir or --kafka"
        )
    return _keeping_all(log)


def _keeping_all(log: LogSettings) -> LogSettings:
    """Disable retention: it is the gateway's task, so a tool must not delete records of its log."""
    return replace(log, sqlite=replace(log.sqlite, retention_age_s=None, retention_bytes=None))


def _server(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--kafka: {text!r} is not HOST:PORT")
    return text
