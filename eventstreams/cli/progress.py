"""Shows the progress of an operation in one line on a terminal; does nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

import click

from eventstreams.cli.messages import print_message

_EVERY_S = 0.1
_BAR_WIDTH = 24


class Progress:
    def __init__(self, *, size: int | None) -> None:
        """Start the progress line. `size` is the size of the whole input in bytes, if known."""
        self._size = size
        self._shows = sys.stderr.isatty()
        self._start = time.monotonic()
        self._last = 0.0
        self._width = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def show(self, count: int, done_bytes: int) -> None:
        now = time.monotonic()
        if not self._shows or now - self._last < _EVERY_S:
            return
        self._last = now
        text = (
            f"{count:,} event{'' if count == 1 else 's'}  {count / max(self.seconds, 1e-9):,.0f}/s"
        )
        if self._size:
            share = min(1.0, done_bytes / self._size)
            filled = round(share * _BAR_WIDTH)
            text = f"[{'#' * filled}{'-' * (_BAR_WIDTH - filled)}] {share:4.0%}  {text}"
        click.echo(f"\r{text.ljust(self._width)}", err=True, nl=False)
        self._width = len(text)

    def step(self, text: str) -> None:
        """Show the current step in place of the previous one."""
        if self._shows:
            self.clear()
            text = text[: shutil.get_terminal_size().columns - 1]
            click.echo(text, err=True, nl=False)
            self._width = len(text)

    def clear(self) -> None:
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0

    def print_line(self, text: str) -> None:
        """Print a line on standard error without mixing it with the progress line."""
        self.clear()
        print_message(text)
