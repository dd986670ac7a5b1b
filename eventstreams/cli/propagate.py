"""`eventstreams propagate`: acts on events according to rules."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from eventstreams import gateway
from eventstreams.cli.config import read_config
from eventstreams.cli.destination import log_settings
from eventstreams.cli.options import (
    FilePath,
    Whole,
    config_option,
    data_dir_option,
    kafka_option,
    log_level_option,
)
from eventstreams.config.settings import LogSettings
from eventstreams.filters.document import Origin
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.timestamp import parse_moment
from eventstreams.propagation import preview as previews
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.rule_file import RuleFile, load_rules
from eventstreams.propagation.service import Topics
from eventstreams.propagation.trigger import meta_of
from eventstreams.server.logs import log_to_stderr
from eventstreams.server.propagation import propagate


@click.group("propagate", invoke_without_command=True)
@click.option("--rules", type=FilePath(path_type=Path), metavar="FILE", help="The rules, in YAML.")
@config_option
@data_dir_option("Act on events of the embedded log in this directory; a gateway may be using it.")
@kafka_option("Act on events in the topics of these brokers.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address for --port.")
@click.option(
    "--port",
    type=Whole(0, 65535),
    metavar="N",
    help="Serve /v2/propagation, /metrics, /healthz and /readyz here; 0 chooses a free port.",
)
@click.option(
    "--allow-private", is_flag=True, help="Allow requests to private and loopback addresses."
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be done for events since --since, then exit."
)
@click.option(
    "--since",
    default="-1h",
    show_default=True,
    metavar="TIME",
    help="A time, or a duration before now such as -1h.",
)
@log_level_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    rules: Path | None,
    config: Path | None,
    data_dir: str | None,
    kafka: str | None,
    host: str,
    port: int | None,
    allow_private: bool,
    dry_run: bool,
    since: str,
    log_level: str,
) -> None:
    """Make requests and produce events by rules.

    Each event that a rule matches is acted on at least once. With Kafka several instances share
    the work; on the embedded log there can be only one. Rule files of Wikimedia's
    change-propagation can be used unchanged.

    \b
    Examples:
      eventstreams propagate --rules rules.yaml --port 8093
      eventstreams propagate --rules rules.yaml --kafka localhost:9092
      eventstreams propagate --rules rules.yaml --dry-run --since -15m
      eventstreams propagate test rules.yaml events.ndjson
    """
    if ctx.invoked_subcommand is not None:
        return
    if rules is None:
        raise click.UsageError("--rules FILE is needed")
    loaded = load_rules(rules)
    settings, catalogue = read_config(config)
    log = log_settings(settings.log, data_dir, kafka)
    if dry_run:
        sys.exit(_dry_run(loaded, catalogue, log, since))
    if allow_private:
        loaded = _allowing_private(loaded)
    log_to_stderr(log_level)
    sys.exit(propagate(loaded, replace(settings, log=log), catalogue, host=host, port=port))


def _allowing_private(loaded: RuleFile) -> RuleFile:
    targets = dataclasses.replace(loaded.targets, allow_private=True)
    return dataclasses.replace(loaded, targets=targets)


def _dry_run(loaded: RuleFile, catalogue: Catalogue, log: LogSettings, since: str) -> int:
    now_ms = time.time_ns() // 1_000_000
    since_ms = parse_moment(since, now_ms)
    if since_ms is None:
        raise click.UsageError(f"--since: {since!r} is not a time such as -1h or 2026-01-31T12:00Z")

    async def run() -> None:
        opened = gateway.open_log(log)
        try:
            await opened.start()
            topics = Topics(loaded, catalogue)
            async for shown in previews.dry_run(
                loaded=loaded, topics=topics, log=opened, since_ms=since_ms
            ):
                click.echo(json.dumps(shown, ensure_ascii=False))
        finally:
            await opened.aclose()

    asyncio.run(run())
    return 0


@command.command("test")
@click.argument("rules", type=FilePath(path_type=Path, exists=True))
@click.argument("events", type=click.File("rb"))
def test(rules: Path, events: Any) -> None:
    """Show which rules would act on which events.

    Also shows what they would do. RULES is a file of rules. EVENTS is a file of one JSON object per
    line, or - for standard input. An event is shown to the rules that read its meta.stream, and to
    all rules if it has none.

    \b
    Example:
      eventstreams propagate test rules.yaml events.ndjson
    """
    loaded = load_rules(rules)
    status = 0
    for number, line in enumerate(events, start=1):
        value = line.strip()
        if not value:
            continue
        shown = [each for rule in loaded.rules if (each := _tried(rule, value, loaded))]
        for each in shown or [{"rule": None}]:
            click.echo(json.dumps({"line": number, **each}, ensure_ascii=False))
            status |= "error" in each
    sys.exit(int(status))


def _tried(rule: Rule, value: bytes, loaded: RuleFile) -> dict[str, Any] | None:
    stream = _stream_of(value)
    if stream is not None:
        subscription = Topics(loaded, None).subscription(rule)
        prefix = subscription.prefix
        if not (subscription.takes(stream) or subscription.takes(prefix + stream)):
            return None
    return previews.preview(rule, value, Origin(stream or "", 0, 0, 0), loaded.user_agent)


def _stream_of(value: bytes) -> str | None:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return None
    stream: Any = meta_of(document).get("stream")
    return stream if isinstance(stream, str) else None
