"""One line on a terminal that says how far an operation is; silent anywhere else."""

from __future__ import annotations

import sys
import time

import click

_EVERY_S = 0.1
_BAR_WIDTH = 24


class Progress:
    def __init__(self, *, size: int | None) -> None:
        """`size` is that of the whole input in bytes, where it is known."""
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
        text = f"{count:,} events  {count / max(self.seconds, 1e-9):,.0f}/s"
        if self._size:
            share = min(1.0, done_bytes / self._size)
            filled = round(share * _BAR_WIDTH)
            text = f"[{'#' * filled}{'-' * (_BAR_WIDTH - filled)}] {share:4.0%}  {text}"
        click.echo(f"\r{text.ljust(self._width)}", err=True, nl=False)
        self._width = len(text)

    def clear(self) -> None:
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0

    def say(self, text: str) -> None:
        """A line on standard error, not torn by the progress."""
        self.clear()
        click.echo(text, err=True)
