"""`eventstreams tail`: what a stream sends, on the terminal or into a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import click
import httpx

from eventstreams.cli.paths import FilePath
from eventstreams.cli.state import StateFile
from eventstreams.cli.tail_follow import Tail
from eventstreams.cli.tail_output import Output, Stopped, as_json, as_text
from eventstreams.errors import EventStreamsError


@click.command("tail")
@click.argument("where", metavar="STREAM[,STREAM...]|URL")
@click.option(
    "--url",
    "base",
    envvar="EVENTSTREAMS_URL",
    default="http://127.0.0.1:8092",
    show_default=True,
    show_envvar=True,
    metavar="BASE",
    help="The gateway, where STREAM is only a name.",
)
@click.option(
    "--since", metavar="TIME", help="Start there: ISO 8601 or milliseconds.  [default: now]"
)
@click.option(
    "--state",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Keep the id of the last event there, and go on from it next time.",
)
@click.option(
    "--token-file",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="A file with a token, for streams that need one; read anew for each connection.",
)
@click.option(
    "--json/--pretty",
    "wants_json",
    default=None,
    help="NDJSON or readable lines.  [default: --pretty on a terminal, else --json]",
)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
def command(
    *,
    where: str,
    base: str,
    since: str | None,
    state: Path | None,
    token_file: Path | None,
    wants_json: bool | None,
    count: int | None,
) -> None:
    """Print the events of a stream as they happen, and keep on through every disconnect.

    With --state nothing is lost between runs: an event's id is kept once the event is printed.
    After a hard kill the events that had just arrived may be printed again. The id in the file
    wins over --since. A file that is empty or damaged is an error: remove it to start without it.
    Errors and gaps go to standard error. Ctrl-C ends it.

    \b
    Examples:
      eventstreams tail recentchange
      eventstreams tail recentchange -n 10 --json
      eventstreams tail recentchange --state last-id >> events.ndjson
      eventstreams tail recentchange,page-create --since 2026-01-31T12:00:00Z
      eventstreams tail https://stream.example.org/v2/stream/recentchange
      eventstreams tail private.changes --token-file token
    """
    if wants_json is None:
        wants_json = not sys.stdout.isatty()
    output = Output(_stdout_fd())
    tail = Tail(
        url=_url(where, base, since),
        output=output,
        render=as_json if wants_json else as_text,
        say=lambda text: click.echo(text, err=True),
        state=StateFile(state) if state else None,
        token_file=token_file,
        count=count,
    )
    try:
        asyncio.run(_until_stopped(tail, output))
    except (asyncio.CancelledError, Stopped):
        return  # told to end, which is how it usually ends
    except BrokenPipeError:
        # Nobody reads any more; Python would complain of that once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout_fd())
    except OSError as error:
        raise EventStreamsError(error) from error


def _stdout_fd() -> int:
    return sys.stdout.fileno()


async def _until_stopped(tail: Tail, output: Output) -> None:
    with _stopping_on_signals(output):
        await tail.run()


@contextlib.contextmanager
def _stopping_on_signals(output: Output) -> Generator[None]:
    """A signal cancels this task, or ends its wait for the reader of the output."""
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


def _url(where: str, base: str, since: str | None) -> httpx.URL:
    named = where if "://" in where else f"{base.rstrip('/')}/v2/stream/{quote(where, safe=',')}"
    try:
        url = httpx.URL(named)
    except httpx.InvalidURL as error:
        raise click.UsageError(f"{named!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise click.UsageError(f"{named!r} is not an http or https URL")
    if url.path in ("", "/"):
        raise click.UsageError(f"{named} names no stream; try {url.join('/v2/stream/NAME')}")
    return url if since is None else url.copy_merge_params({"since": since})
