"""Writes logs to standard error: readable lines on a terminal, else JSON, one object per line.

The keys of the JSON are `time` (UTC), `level`, `logger`, `message`, then those of the call's
`extra`, and `exception` if there is one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import orjson

from eventstreams.model.visible import visible

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
            return visible(text)  # orjson has escaped what would be no JSON
        except TypeError:  # a number beyond 64 bits, half of a surrogate pair
            return json.dumps(line, default=repr)


class TerminalFormatter(logging.Formatter):
    """Formats a log record as one line for people: time (local), level, message and its values.

    The record that says where the gateway listens becomes the banner.
    """

    def __init__(self, banner: Callable[[str], str] | None, *, colours: bool) -> None:
        super().__init__()
        self._banner = banner
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        values = {key: value for key, value in vars(record).items() if key not in _OWN}
        message = record.getMessage()
        if self._banner is not None and message == "listening" and "url" in values:
            # One worker of several prints it; the others would print the same.
            return self._banner(values["url"]) if record.processName in _FIRST else "listening"
        moment = datetime.fromtimestamp(record.created).astimezone()
        level = record.levelname.lower().ljust(7)
        if self._colours and record.levelno in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelno]}m{level}\x1b[0m"
        parts = [f"{moment:%H:%M:%S}", level, visible(message)]
        parts += [f"{key}={visible(_text(value))}" for key, value in values.items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_FIRST = ("MainProcess", "worker 0")
_COLOURS = {logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, cast("list[object]", value)))
    return str(value)


def log_to_stderr(level: str, banner: Callable[[str], str] | None = None) -> None:
    """Send all logs of the process to standard error; of libraries, only warnings and errors.

    `level` is debug, info, warning or error, and applies to this package. `banner` returns what a
    terminal shows once the gateway listens on a URL.
    """
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        colours = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        handler.setFormatter(TerminalFormatter(banner, colours=colours))
    else:
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("eventstreams").setLevel(level.upper())
    # It warns about each malformed request, and anyone can send any number of these.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
