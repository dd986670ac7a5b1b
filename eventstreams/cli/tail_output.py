"""Writes the output of `tail`: readable lines or NDJSON, straight to the file descriptor.

Nothing is buffered here: when `write` returns, the line is out and its id may be remembered. A
signal interrupts a write only while the reader of the output accepts nothing.
"""

from __future__ import annotations

import os
import select
from typing import Any, cast

import orjson

from eventstreams.model.visible import UNSAFE

_PIECE_BYTES = select.PIPE_BUF
"""A writable pipe accepts at least this many bytes without blocking."""


class Stopped(Exception):
    """A signal to stop arrived while the reader of the output accepted nothing."""


class Output:
    """Standard output, or another file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_waiting = False
        self._is_stopping = False

    def stop(self) -> None:
        """Stop waiting for the reader, for use in signal handlers. A wait in progress raises
        Stopped."""
        self._is_stopping = True
        if self._is_waiting:
            raise Stopped

    def write(self, line: bytes) -> None:
        """Write a line and a line end.

        Raises BrokenPipeError if the reader has gone, and Stopped.
        """
        rest = memoryview(line + b"\n")
        while rest:
            self._wait_for_room()
            rest = rest[os.write(self._fd, rest[:_PIECE_BYTES]) :]

    def _wait_for_room(self) -> None:
        if select.select([], [self._fd], [], 0)[1]:
            return
        self._is_waiting = True
        try:
            if self._is_stopping:
                raise Stopped
            select.select([], [self._fd], [])
        finally:
            self._is_waiting = False


def as_json(data: str) -> bytes:
    """Return the event on one line, unchanged except that line ends between tokens become
    spaces."""
    return data.replace("\n", " ").encode("utf-8", "backslashreplace")


def as_text(data: str) -> bytes:
    """Return a line for people.

    For a recent change these are its time (UTC), wiki, type, user and title; for any other event
    its JSON. Characters that a terminal would interpret are replaced.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _safe(data)
    fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    return _safe(_recent_change(fields) or orjson.dumps(document).decode())


def _recent_change(fields: dict[str, Any]) -> str | None:
    named = [fields.get(name) for name in ("wiki", "type", "user", "title")]
    if not all(isinstance(value, str) for value in named):
        return None
    wiki, kind, user, title = cast("list[str]", named)
    bot = " (bot)" if fields.get("bot") is True else ""
    return f"{_time(fields)}  {wiki:<8}  {kind:<10}  {user + bot:<24}  {title}{_growth(fields)}"


def _time(fields: dict[str, Any]) -> str:
    meta = fields.get("meta")
    moment = cast("dict[str, Any]", meta).get("dt") if isinstance(meta, dict) else None
    text = moment if isinstance(moment, str) else ""
    return text[:19].replace("T", " ").ljust(19)


def _growth(fields: dict[str, Any]) -> str:
    length = fields.get("length")
    if not isinstance(length, dict):
        return ""
    old, new = (cast("dict[str, Any]", length).get(key) for key in ("old", "new"))
    if not isinstance(new, int) or not isinstance(old, int | None):
        return ""
    return f"  ({new - (old or 0):+,})"


def _safe(text: str) -> bytes:
    return UNSAFE.sub("\ufffd", text).encode("utf-8", "backslashreplace")
