"""`eventstreams relay`: follows another gateway and appends its events to our log."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Generator
from pathlib import Path

import click

from eventstreams import gateway
from eventstreams.cli.config import read_config
from eventstreams.cli.destination import log_name, log_settings
from eventstreams.cli.messages import print_message
from eventstreams.cli.options import append_options, token_file_option
from eventstreams.cli.relay_options import as_options, checked_name, mapping_of, relay_name
from eventstreams.config.settings import LogSettings, RelaySettings, Settings
from eventstreams.errors import ConfigError
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.relay.builder import open_relay, relay_problems
from eventstreams.server.logs import log_to_stderr

_EVENTS = "eventstreams_relay_events_total"


@click.command("relay")
@click.argument("url", metavar="URL")
@click.option(
    "--streams",
    metavar="NAME[=OURS],...",
    help="Upstream streams, and their names here.  [default: those in the path of URL]",
)
@click.option(
    "--name",
    metavar="NAME",
    help="The name under which the relay stores its position.  [default: the host of URL]",
)
@click.option("--since", metavar="TIME", help="Where the first run starts.  [default: now]")
@click.option(
    "--filter", "filter_", metavar="EXPRESSION", help="A filter that is passed on to the upstream."
)
@click.option("--no-canary", is_flag=True, help="Leave out the upstream's canary events.")
@click.option("--contact", metavar="TEXT", help="Your contact address for the User-Agent header.")
@token_file_option("A file with a token for the streams.")
@append_options
def command(
    *,
    url: str,
    streams: str | None,
    name: str | None,
    since: str | None,
    filter_: str | None,
    no_canary: bool,
    contact: str | None,
    token_file: Path | None,
    config: Path | None,
    data_dir: str | None,
    kafka: str | None,
) -> None:
    """Append the events of another gateway to this log.

    It follows the gateway at URL until Ctrl-C.

    The position in the upstream is kept in the log itself, in one transaction with the events, so a
    run that is killed at any moment resumes exactly where it stopped, without lost or duplicate
    events. A second relay of the same name takes over from the first.

    Responses that a retry would not change (an unknown stream, a refused token) end the command
    with exit code 1; everything else is retried.

    \b
    Examples:
      eventstreams relay https://stream.wikimedia.org/v2/stream/recentchange \\
        --contact ops@example.org
      eventstreams relay https://events.example.org --streams edits,moves --since -1h
      eventstreams relay https://events.example.org --streams edits=copy.edits --data-dir data
    """
    settings, catalogue = read_config(config)
    relay = RelaySettings(
        url=url,
        streams=mapping_of(streams),
        since=None if since == "now" else since,
        filter=filter_,
        canaries=not no_canary,
        contact=contact,
        token_file=None if token_file is None else str(token_file),
    )
    name = relay_name(url) if name is None else checked_name(name)
    if contact is not None and not contact.isprintable():
        raise click.UsageError(f"--contact: {contact!r} contains a character no header can contain")
    if problems := list(relay_problems(Settings(relays={name: relay}), catalogue)):
        raise ConfigError(as_options(problems, name, url_names_streams=streams is None))
    log = log_settings(settings.log, data_dir, kafka)
    log_to_stderr("info")
    print_message(f"relaying {url} to {log_name(log)}")
    metrics = Metrics()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_run(name, relay, catalogue, log, metrics))
    finally:
        appended = metrics.registry.get_sample_value(_EVENTS, {"relay": name}) or 0
        print_message(f"appended {appended:,.0f} event{'' if appended == 1 else 's'}")


async def _run(
    name: str, settings: RelaySettings, catalogue: Catalogue, log: LogSettings, metrics: Metrics
) -> None:
    opened = gateway.open_log(log, metrics)
    relay = open_relay(
        name, settings, catalogue=catalogue, log=opened, metrics=metrics, ends_when_refused=True
    )
    with _stopping_on_signals():
        try:
            await opened.start()
            if log.backend == "sqlite":
                for topic in relay.topics:
                    await opened.create_topic(topic, log.sqlite.partitions_per_topic)
            await relay.run()
        finally:
            await opened.aclose()


@contextlib.contextmanager
def _stopping_on_signals() -> Generator[None]:
    """Cancel this task on the first signal; an append in progress is finished."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
