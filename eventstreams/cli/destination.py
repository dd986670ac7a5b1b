"""Where `produce` and `import` append: the options they share, and what these mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from msgspec.structs import replace

from eventstreams.cli.config import config_option, read_config
from eventstreams.cli.paths import FilePath
from eventstreams.model.stream import Catalogue
from eventstreams.settings import LogSettings

_F = TypeVar("_F", bound=Callable[..., Any])


class Destination(NamedTuple):
    log: LogSettings
    topic: str
    partition: int | None
    event_time: bool
    """Records get the time of `meta.dt` where there is one, else all get that of appending."""


def log_name(log: LogSettings) -> str:
    """The log in words."""
    if log.backend == "kafka":
        return f"Kafka at {', '.join(log.kafka.bootstrap_servers)}"
    return f"the log in {Path(log.data_dir).resolve()}"


_LOG_OPTIONS = (
    click.option("--skip-bad", is_flag=True, help="Report bad lines and go on, instead of stop."),
    config_option,
    click.option(
        "--data-dir",
        type=FilePath(file_okay=False),
        help="Append to the embedded log in this directory; a gateway may be running on it.",
    ),
    click.option("--kafka", metavar="HOST:PORT,...", help="Append to the topics of these brokers."),
)
_OPTIONS = (
    click.option("--stream", required=True, metavar="NAME", help="A stream of the catalogue."),
    click.option("--topic", metavar="TOPIC", help="One of its topics.  [default: its first]"),
    click.option(
        "--partition", type=click.IntRange(min=0), metavar="N", help="[default: the log chooses]"
    ),
    click.option(
        "--timestamp",
        type=click.Choice(["meta", "now"]),
        default="meta",
        show_default=True,
        help="Time of a record: the event's meta.dt where there is one, or that of appending.",
    ),
    *_LOG_OPTIONS,
)


def destination_options(command: _F) -> _F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def log_options(command: _F) -> _F:
    """Those of a command whose lines name their own streams."""
    for option in reversed(_LOG_OPTIONS):
        command = option(command)
    return command


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
    """Raises ConfigError, and click.UsageError for what the catalogue does not name."""
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
    """The settings of the log, with what these options change. Raises click.UsageError."""
    if data_dir is not None and kafka is not None:
        raise click.UsageError("--data-dir and --kafka contradict each other")
    if data_dir is not None:
        return _keeping_all(replace(log, backend="sqlite", data_dir=data_dir))
    if kafka is not None:
        servers = tuple(_server(server.strip()) for server in kafka.split(","))
        brokers = replace(log.kafka, bootstrap_servers=servers)
        return replace(log, backend="kafka", kafka=brokers)
    if log.backend == "memory":
        raise click.UsageError(
            "the settings name a log in memory, which no other process reaches; "
            "use --data-dir or --kafka"
        )
    return _keeping_all(log)


def _keeping_all(log: LogSettings) -> LogSettings:
    """Retention is the gateway's: a tool that adds to its log must not drop what it keeps."""
    return replace(log, sqlite=replace(log.sqlite, retention_age_s=None, retention_bytes=None))


def _server(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--kafka: {text!r} is not HOST:PORT")
    return text
