"""One run of a command that appends lines, from the open input to the summary and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import IO, NamedTuple

import click

from eventstreams import gateway
from eventstreams.cli.chunks import Chunks
from eventstreams.cli.destination import log_name
from eventstreams.cli.lines import Line, LineReader
from eventstreams.cli.progress import Progress
from eventstreams.cli.sink import BadLine, Opening, Sink, SinkMaker
from eventstreams.errors import LogError
from eventstreams.log.base import Log
from eventstreams.settings import LogSettings


class Input(NamedTuple):
    name: str
    """As it stands before a line's number in messages: `events.ndjson:17`, `argument 2`."""
    source: IO[bytes] | list[str]
    size: int | None = None


class Plan(NamedTuple):
    log: LogSettings
    """Of the log to append to."""
    skip_bad: bool
    dry_run: bool = False
    first_line: int = 1
    can_go_on: bool = False
    """Whether the command takes --from-line."""
    prints: bool = False
    """Standard output is for events, and the summary goes to standard error."""


def run_append(what: Input, plan: Plan, make_sink: SinkMaker) -> int:
    """Appends the input; returns the exit code. Raises LogError where the log can't be opened."""
    run = _Run(what, plan, make_sink)
    appender, failure = asyncio.run(run.run())
    run.sum_up(appender)
    if failure is None:
        return 0
    click.echo(f"Error: {failure}", err=True)
    run.say_how_to_go_on(appender)
    return 1


class _Run:
    def __init__(self, what: Input, plan: Plan, make_sink: SinkMaker) -> None:
        self._what = what
        self._plan = plan
        self._make_sink = make_sink
        self._progress = Progress(size=what.size)
        self._interrupted = False

    async def run(self) -> tuple[Sink, str | None]:
        """What was done, and what went wrong, if anything."""
        async with self._opened() as log:
            report_bad = self._say_bad if self._plan.skip_bad else None
            opening = Opening(log, self._plan.first_line, report_bad)
            async with self._make_sink(opening) as sink:
                return sink, await self._append(sink)

    async def _append(self, appender: Sink) -> str | None:
        done_bytes = 0
        try:
            async with contextlib.aclosing(self._lines()) as batches:
                async for lines, read_bytes in batches:
                    await appender.add(lines)
                    done_bytes += read_bytes
                    self._progress.show(appender.tally.appended, done_bytes)
        except BadLine as error:
            return f"{self._place(error.number)}: {error.reason}"
        except LogError as error:
            return f"{self._place(appender.tally.last_line + 1)}: not appended: {error}"
        except OSError as error:
            return f"{self._what.name}: reading failed: {error.strerror or error}"
        return "interrupted" if self._interrupted else None

    async def _lines(self) -> AsyncGenerator[tuple[Iterable[Line], int]]:
        if isinstance(self._what.source, list):
            texts = enumerate(self._what.source, start=1)
            yield [Line(number, _bytes_of(text)) for number, text in texts], 0
            return
        chunks = Chunks(self._what.source)
        reader = LineReader(bytes_max=self._plan.log.sqlite.record_bytes_max)
        with self._stopping_on_signals(chunks):
            async for chunk in chunks:
                yield reader.feed(chunk), len(chunk)
            if not chunks.stopped:
                yield reader.end(), 0

    @contextlib.contextmanager
    def _stopping_on_signals(self, chunks: Chunks) -> Generator[None]:
        """The first signal ends the input, so that the append under way is finished and counted;
        the second ends the process."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)

        def restore() -> None:
            for number in signals:
                loop.remove_signal_handler(number)

        def stop() -> None:
            self._interrupted = True
            chunks.stop()
            restore()

        for number in signals:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            restore()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Log | None]:
        if self._plan.dry_run:
            yield None
            return
        log = gateway.open_log(self._plan.log)
        try:
            await log.start()
            yield log
        finally:
            await log.aclose()

    def _place(self, number: int) -> str:
        separator = " " if isinstance(self._what.source, list) else ":"
        return f"{self._what.name}{separator}{number}"

    def _say_bad(self, number: int, reason: str) -> None:
        self._progress.say(f"{self._place(number)}: {reason}")

    def sum_up(self, appender: Sink) -> None:
        self._progress.clear()
        say = functools.partial(click.echo, err=self._plan.prints)
        tally, seconds = appender.tally, self._progress.seconds
        events = f"{tally.appended:,} event{'' if tally.appended == 1 else 's'}"
        rate = f"{seconds:.2f} s, {tally.appended / max(seconds, 1e-9):,.0f} events/s"
        if self._plan.dry_run:
            say(f"checked {events}, appended none ({rate})")
        else:
            say(f"appended {events} to {log_name(self._plan.log)} ({rate})")
        for (topic, number), count in sorted(tally.partitions.items()):
            say(f"  {topic}/{number}: {count:,}")
        if tally.bad:
            say(f"skipped {tally.bad:,} bad line{'' if tally.bad == 1 else 's'}")

    def say_how_to_go_on(self, appender: Sink) -> None:
        tally = appender.tally
        if isinstance(self._what.source, list) or self._plan.dry_run:
            return
        following = max(tally.last_line + 1, self._plan.first_line)
        text = f"Everything before line {following} is appended"
        if self._plan.log.backend == "kafka":
            text += " (after a failure of the brokers some lines from there on may be, too)"
        if self._plan.can_go_on:
            text += f"; to go on: --from-line {following}"
        click.echo(text, err=True)


def _bytes_of(text: str) -> bytes:
    """What the shell passed, also where it was not UTF-8."""
    return text.encode("utf-8", "surrogateescape")
