"""`eventstreams tail`: prints the events of a stream on a terminal or into a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import click
import httpx

from eventstreams.cli.messages import print_message
from eventstreams.cli.options import (
    FilePath,
    Whole,
    config_option,
    data_dir_option,
    followed_selection,
    followed_stream,
    followed_token_option,
    followed_url_option,
    kafka_option,
)
from eventstreams.cli.state import StateFile
from eventstreams.cli.tail_follow import Tail
from eventstreams.cli.tail_output import Output, Stopped, as_json, as_text
from eventstreams.errors import EventStreamsError

_BOUNDS = frozenset({"until", "limit", "max_seconds"})
"""Parameters with which a gateway ends a stream."""


@click.command("tail")
@followed_stream
@followed_url_option
@click.option(
    "--since",
    metavar="TIME",
    help="Start at this time: ISO 8601, milliseconds since 1970, a time ago such as -15m, or"
    " earliest.  [default: now]",
)
@click.option(
    "--until",
    metavar="TIME",
    help="End before the first event at or after this time, which may be now.",
)
@click.option("--limit", type=Whole(min=1), metavar="N", help="End after N events.")
@followed_selection
@click.option("--no-canary", is_flag=True, help="Leave out canary events, which test the pipeline.")
@click.option(
    "--state",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Keep the id of the last event in this file, and resume from it next time.",
)
@followed_token_option
@click.option(
    "--json/--pretty",
    "wants_json",
    default=None,
    help="Write NDJSON or readable lines.  [default: --pretty on a terminal, else --json]",
)
@data_dir_option("Read the embedded log in this directory, without a gateway; one may be using it.")
@kafka_option("Read the topics of these brokers, without a gateway.")
@config_option
@click.option(
    "-n",
    "--count",
    type=Whole(min=1),
    metavar="N",
    help="Stop after N events; with --state, the next run continues there.",
)
def command(
    *,
    where: str,
    url: str,
    since: str | None,
    until: str | None,
    limit: int | None,
    filter_: str | None,
    fields: str | None,
    no_canary: bool,
    state: Path | None,
    token_file: Path | None,
    wants_json: bool | None,
    count: int | None,
    data_dir: str | None,
    kafka: str | None,
    config: Path | None,
) -> None:
    """Print the events of a stream as they happen.

    After a disconnect it reconnects and resumes after the last event.

    With --state nothing is lost between runs: an event's id is kept once the event is printed.
    After a hard kill the events that had just arrived may be printed again. The id in the file
    overrides --since. A file that is empty or damaged is an error: remove it to start without it.
    Errors and gaps go to standard error. Ctrl-C ends the command.

    With --until or --limit the gateway ends the stream, and the command ends with exit code 0. Both
    are part of the ids that --state keeps, so another run with the same file ends at once.

    Events come from the running gateway at --url. With --data-dir or --kafka, they come from a log
    without a gateway; --config then names the settings whose catalogue has the streams.

    \b
    Examples:
      eventstreams tail recentchange
      eventstreams tail recentchange -n 10 --json
      eventstreams tail recentchange --state last-id >> events.ndjson
      eventstreams tail recentchange,page-create --since 2026-01-31T12:00:00Z
      eventstreams tail recentchange --since -15m --until -5m --fields title,user
      eventstreams tail recentchange --filter "event.wiki == 'enwiki' && !event.bot" --limit 5
      eventstreams tail https://stream.example.org/v2/stream/recentchange
      eventstreams tail private.changes --token-file token
      eventstreams tail recentchange --data-dir /var/lib/eventstreams --since earliest
    """
    if wants_json is None:
        wants_json = not sys.stdout.isatty()
    parameters = {
        "since": None if since == "now" else since,
        "until": now_ms() if until == "now" else until,
        "limit": limit,
        "filter": filter_,
        "fields": fields,
        "canary": "false" if no_canary else None,
    }
    output = Output(_stdout_fd())
    render = as_json if wants_json else as_text

    def follow(gateway: str, *, has_page: bool = True) -> None:
        streams = stream_url(where, gateway, parameters)
        tail = Tail(
            url=streams,
            output=output,
            render=render,
            report=print_message,
            state=StateFile(state) if state else None,
            token_file=token_file,
            count=count,
            has_end=_has_end(streams),
            has_page=has_page,
        )
        asyncio.run(_until_stopped(tail, output))

    try:
        if data_dir is None and kafka is None:
            if config is not None:
                raise click.UsageError("--config needs --data-dir or --kafka")
            follow(url)
            return
        if "://" in where:
            raise click.UsageError("a URL has no effect with --data-dir or --kafka")
        from eventstreams.cli.own_gateway import own_gateway  # noqa: PLC0415 - loads much

        with own_gateway(config=config, data_dir=data_dir, kafka=kafka) as own:
            follow(own, has_page=False)
    except (asyncio.CancelledError, Stopped):
        return  # cancelled, which is how it usually ends
    except BrokenPipeError:
        # The reader has gone. Without this, Python would report that again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout_fd())
    except OSError as error:
        raise EventStreamsError(error) from error


def now_ms() -> str:
    """Return the present as a parameter for the gateway: milliseconds since 1970.

    A number stays the same when a reconnect repeats the request.
    """
    return str(time.time_ns() // 1_000_000)


def _stdout_fd() -> int:
    return sys.stdout.fileno()


async def _until_stopped(tail: Tail, output: Output) -> None:
    with _stopping_on_signals(output):
        await tail.run()


@contextlib.contextmanager
def _stopping_on_signals(output: Output) -> Generator[None]:
    """Let a signal cancel this task, or end its wait for the reader of the output."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel)
        output.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stream_url(where: str, base: str, parameters: Mapping[str, str | int | None]) -> httpx.URL:
    """Return the URL of streams, named or given as a URL. Raises click.UsageError."""
    is_url = "/" in where
    named = where if is_url else f"{base.rstrip('/')}/v2/stream/{quote(where, safe=',')}"
    try:
        url = httpx.URL(named)
    except httpx.InvalidURL as error:
        raise click.UsageError(f"{named!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        given = where if is_url else base
        raise click.UsageError(
            f"{given!r} is not an http or https URL, such as https://stream.example.org"
        )
    if url.path in ("", "/"):
        raise click.UsageError(f"{named} names no stream; try {url.join('/v2/stream/NAME')}")
    url = url.copy_merge_params({n: v for n, v in parameters.items() if v is not None})
    if not _has_end(url):
        return url
    return url.copy_merge_params({"heartbeat": "checkpoint"})  # so that the end has an id


def _has_end(url: httpx.URL) -> bool:
    return not _BOUNDS.isdisjoint(url.params)
