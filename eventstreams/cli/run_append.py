"""Runs a command that appends lines, from opening the input to the summary and exit code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import IO, NamedTuple

import click

from eventstreams.cli.chunks import Chunks
from eventstreams.cli.destination import has_embedded_log, log_name
from eventstreams.cli.lines import Line, LineReader
from eventstreams.cli.messages import print_message
from eventstreams.cli.posting import LINE_BYTES_MAX
from eventstreams.cli.progress import Progress
from eventstreams.cli.sink import BadLine, NotStored, Opening, Sink, SinkMaker
from eventstreams.config.settings import LogSettings
from eventstreams.errors import LogError
from eventstreams.log.base import Log


class Input(NamedTuple):
    name: str
    """The text before a line's number in messages: `events.ndjson:17`, `argument 2`."""
    source: IO[bytes] | list[str]
    size: int | None = None


class Plan(NamedTuple):
    log: LogSettings | None
    """The settings of the log to append to; None if the sink posts to a gateway."""
    skip_bad: bool
    dry_run: bool = False
    first_line: int = 1
    can_go_on: bool = False
    """Whether the command has the option --from-line."""
    gateway: str | None = None
    """The URL of the gateway, if there is no log."""
    prints: bool = False
    """Whether events go to standard output, so that the summary goes to standard error."""

    @property
    def target(self) -> str:
        """Where events go, for messages."""
        return f"the gateway at {self.gateway}" if self.log is None else log_name(self.log)

    @property
    def creates_log(self) -> bool:
        """Whether the log does not exist yet."""
        log = self.log
        return log is not None and log.backend == "sqlite" and not has_embedded_log(log.data_dir)

    @property
    def line_bytes_max(self) -> int:
        return LINE_BYTES_MAX if self.log is None else self.log.sqlite.record_bytes_max


def run_append(what: Input, plan: Plan, make_sink: SinkMaker) -> int:
    """Append the input and return the exit code. Raises LogError if the log cannot be opened."""
    run = _Run(what, plan, make_sink, _log_of(plan))
    appender, failure = asyncio.run(run.run())
    if failure is None or appender.tally.appended or appender.tally.bad:
        run.sum_up(appender)
    if failure is None:
        return 0
    print_message(f"Error: {failure}")
    run.print_how_to_continue(appender)
    return 1


def _log_of(plan: Plan) -> Log | None:
    """Return the log to append to, not started; None if there is nothing to open."""
    if plan.dry_run or plan.log is None:
        return None
    from eventstreams.gateway import open_log  # noqa: PLC0415 - loads much

    return open_log(plan.log)


class _Run:
    def __init__(self, what: Input, plan: Plan, make_sink: SinkMaker, log: Log | None) -> None:
        self._what = what
        self._plan = plan
        self._log = log
        self._make_sink = make_sink
        self._progress = Progress(size=what.size)
        self._interrupted = False
        verb = "created" if plan.creates_log else "appending to"
        self._log_message = f"{verb} {plan.target}"  # made here, because it reads the disk

    async def run(self) -> tuple[Sink, str | None]:
        """Append the input. Returns the sink, and a description of the failure, if any."""
        async with self._opened() as log:
            report_bad = self._report_bad if self._plan.skip_bad else None
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
        except (LogError, NotStored) as error:
            return f"{self._place(appender.tally.last_line + 1)}: not appended: {error}"
        except OSError as error:
            return f"{self._what.name}: reading failed: {error.strerror or error}"
        if not self._interrupted:
            return None
        return "interrupted" if appender.tally.last_line else "interrupted; nothing was appended"

    async def _lines(self) -> AsyncGenerator[tuple[Iterable[Line], int]]:
        if isinstance(self._what.source, list):
            texts = enumerate(self._what.source, start=1)
            yield [Line(number, _bytes_of(text)) for number, text in texts], 0
            return
        chunks = Chunks(self._what.source)
        reader = LineReader(bytes_max=self._plan.line_bytes_max)
        with self._stopping_on_signals(chunks):
            async for chunk in chunks:
                yield reader.feed(chunk), len(chunk)
            if not chunks.stopped:
                yield reader.end(), 0

    @contextlib.contextmanager
    def _stopping_on_signals(self, chunks: Chunks) -> Generator[None]:
        """End the input on the first signal, and the process on the second.

        After the first one, the append in progress is finished and counted.
        """
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
        log = self._log
        if log is None:
            yield None
            return
        try:
            await log.start()
            print_message(self._log_message)
            yield log
        finally:
            await log.aclose()

    def _place(self, number: int) -> str:
        separator = " " if isinstance(self._what.source, list) else ":"
        return f"{self._what.name}{separator}{number}"

    def _report_bad(self, number: int, reason: str) -> None:
        self._progress.print_line(f"{self._place(number)}: {reason}")

    def sum_up(self, appender: Sink) -> None:
        self._progress.clear()
        echo = functools.partial(click.echo, err=self._plan.prints)
        tally, seconds = appender.tally, self._progress.seconds
        events = f"{tally.appended:,} event{'' if tally.appended == 1 else 's'}"
        rate = f"{seconds:.2f} s, {tally.appended / max(seconds, 1e-9):,.0f} events/s"
        if self._plan.dry_run:
            echo(f"checked {events} without appending ({rate})")
        else:
            echo(f"appended {events} to {self._plan.target} ({rate})")
        for (topic, number), count in sorted(tally.partitions.items()):
            echo(f"  {topic}/{number}: {count:,}")
        if tally.bad:
            echo(f"skipped {tally.bad:,} invalid line{'' if tally.bad == 1 else 's'}")

    def print_how_to_continue(self, appender: Sink) -> None:
        tally = appender.tally
        if isinstance(self._what.source, list) or self._plan.dry_run:
            return
        following = max(tally.last_line + 1, self._plan.first_line)
        if self._interrupted and following == 1:
            return
        text = f"Everything before line {following} is appended"
        if self._plan.log is None or self._plan.log.backend == "kafka":
            text += " (after a failure, some later lines may be appended too)"
        if self._plan.can_go_on:
            text += f"; to continue, use --from-line {following}"
        print_message(text)


def _bytes_of(text: str) -> bytes:
    """Return the bytes of an argument as the shell passed it, even if they are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")
