"""Splits a file that arrives in chunks into numbered, bounded lines, and parses lines as events.

Nothing here does any input or output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn, cast

import orjson

from eventstreams.model.timestamp import parse_timestamp

_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    number: int
    """The number of the line, counted from 1 and including blank lines."""
    text: bytes | None
    """The line without its line end; None if it is too long."""


class BadDocument(ValueError):
    """The text cannot be an event. The message is the reason, in a few words."""


class LineReader:
    """Turns chunks into whole lines. Holds at most one incomplete line of `bytes_max` bytes."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._number = 0
        self._rest = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk. Consume them all before the next call."""
        first, *others = chunk.split(b"\n")
        self._gather(first)
        for text in others:
            yield self._finish()
            self._gather(text)

    def end(self) -> Iterator[Line]:
        """Yield the last line, if the file does not end with a line end."""
        if self._rest or self._too_long:
            yield self._finish()

    def _gather(self, text: bytes) -> None:
        if len(self._rest) + len(text) > self._bytes_max + len(b"\r"):
            self._too_long = True
            self._rest.clear()
        if not self._too_long:
            self._rest += text

    def _finish(self) -> Line:
        self._number += 1
        text = None if self._too_long else bytes(self._rest).removesuffix(b"\r")
        if text is not None and len(text) > self._bytes_max:
            text = None
        if self._number == 1 and text is not None:
            text = text.removeprefix(_BOM)
        self._rest.clear()
        self._too_long = False
        return Line(self._number, text)


def parse_document(text: bytes) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises BadDocument for anything a gateway would not
    send."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        document = _parse_with_care(text, error)
    if not isinstance(document, dict):
        raise BadDocument(f"not a JSON object but {_kind(document)}")
    fields = cast("dict[str, Any]", document)
    meta = fields.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise BadDocument(f"its meta is not an object but {_kind(meta)}")
    return fields


def event_time_ms(document: dict[str, Any]) -> int | None:
    """Return the time of the event (`meta.dt`) in milliseconds since 1970, or None if it has
    none."""
    meta = document.get("meta")
    moment = cast("dict[str, Any]", meta).get("dt") if isinstance(meta, dict) else None
    return parse_timestamp(moment) if isinstance(moment, str) else None


def _parse_with_care(text: bytes, error: orjson.JSONDecodeError) -> Any:
    """Return the document of JSON that the fast parser refuses: strings with unpaired
    surrogates."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as broken:
        raise BadDocument(f"not UTF-8 (byte {broken.start + 1})") from None
    try:
        return json.loads(decoded, parse_constant=_refuse)
    except RecursionError:
        raise BadDocument("nested too deeply") from None
    except ValueError:
        raise BadDocument(f"not JSON ({error.msg}, column {error.colno})") from None


def _refuse(_: str) -> NoReturn:
    raise ValueError


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names[type(value)]
