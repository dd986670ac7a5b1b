"""Converts lines of a file to the JSON of events: raw logs of EventLogging, and error events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from eventstreams.intake.document import EventProblem, write
from eventstreams.legacy.capsule import decode_query, read_capsule
from eventstreams.legacy.conversion import Converter, Reception
from eventstreams.legacy.log_format import LogFormat
from eventstreams.model.timestamp import iso_of

LineConverter = Callable[[bytes], bytes]
"""Returns the JSON of the event in a line. Raises EventProblem."""


def raw_log(log_format: LogFormat, converter: Converter, *, line_bytes_max: int) -> LineConverter:
    """Return a converter for lines of a raw log.

    `dt` and `meta.dt` are the time in the line, if it has one. `meta.id` is derived from the values
    that EventLogging made its ids of, so a line that is read twice has the same id both times.
    """

    def convert(line: bytes) -> bytes:
        text = line.decode("utf-8", "surrogateescape")
        raw = log_format.parse(text, line_bytes_max=line_bytes_max)
        meta: dict[str, str] = {}
        if raw.dt is not None:
            meta["dt"] = raw.dt
        if raw.uuid is not None:
            meta["id"] = str(UUID(raw.uuid))
        reception = Reception(raw.dt or _now(), user_agent=raw.user_agent, uuid=raw.uuid, meta=meta)
        return write(converter.convert(raw.capsule, reception))

    return convert


def error_events(converter: Converter, *, line_bytes_max: int) -> LineConverter:
    """Return a converter for lines that are error events, to retry the events that were refused.

    It accepts the intake's error events, whose `raw_event` is an event, a capsule or a query, and
    EventLogging's, which have it in `event.rawEvent`.
    """

    def convert(line: bytes) -> bytes:
        document = read_capsule(line)
        raw = _raw_event(document)
        text = raw.encode("utf-8", "surrogatepass")
        if not text.lstrip().startswith(b"{"):
            capsule = decode_query(text, bytes_max=line_bytes_max)
        else:
            capsule = read_capsule(text)
            if "$schema" in capsule:
                return text
        return write(converter.convert(capsule, Reception(_now())))

    return convert


def _raw_event(document: dict[str, Any]) -> str:
    """Return the refused event of an error event. Raises EventProblem."""
    event = document.get("event")
    fields = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    raw = document.get("raw_event", fields.get("rawEvent"))
    if isinstance(raw, str):
        return raw
    message = "not an error event that repeats what was refused: it has no raw_event"
    raise EventProblem("RawLineError", message, message)


def _now() -> str:
    return iso_of(time.time_ns() // 1_000_000) or ""
