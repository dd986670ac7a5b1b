"""Splits the bytes of an event stream into blocks of lines, without interpreting them.

A reader that follows the standard tolerates what breaks other clients, so the checks of framing use
these blocks. The functions return a problem as text, or None.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from eventstreams.verify.verdict import shown

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SEPARATORS = {"\u2028": "U+2028", "\u2029": "U+2029", "\u0085": "U+0085"}
"""Characters at which Python's `splitlines`, and clients that use it, end a line."""
_NAMES = (b"event", b"data", b"id", b"retry")


class Block(NamedTuple):
    """The lines between two blank lines. Lines are split only at LF, so a CR remains visible."""

    lines: tuple[bytes, ...]
    start: int
    """The offset of its first field in the body; comment lines before it do not belong to it."""

    def fields(self, name: bytes) -> list[int]:
        """Return the indices of the lines with a field."""
        return [n for n, line in enumerate(self.lines) if line.split(b":", 1)[0] == name]

    @property
    def is_event(self) -> bool:
        return bool(self.fields(b"data"))

    @property
    def is_message(self) -> bool:
        """Whether it is an event of the log; all other events have names."""
        names = [self.lines[n].partition(b":")[2].strip() for n in self.fields(b"event")]
        return self.is_event and names in ([], [b"message"])


def blocks_of(body: bytes) -> list[Block]:
    """Return the complete blocks, without those that contain only comments."""
    found: list[Block] = []
    lines: list[bytes] = []
    start = at = 0
    *whole, _torn = body.split(b"\n")
    for line in whole:
        at += len(line) + 1
        if line.strip(b"\r"):
            if not lines:
                start = at - len(line) - 1
                if line.startswith(b":"):
                    continue
            lines.append(line)
        else:
            if lines:
                found.append(Block(tuple(lines), start))
            lines = []
    return found


def line_end_problem(body: bytes) -> str | None:
    """Check that line ends are LF, except in lines of ids, which have their own check."""
    if body.startswith(BYTE_ORDER_MARK):
        return "the stream begins with a byte order mark"
    for line in body.split(b"\n"):
        if b"\r" in line and not line.startswith(b"id:"):
            return f"a line contains a carriage return: {shown(line)}"
    return None


def layout_problem(block: Block) -> str | None:
    """Check that an event has one `event:` and one `data:` line, and a space after each colon."""
    for line in block.lines:
        name, colon, value = line.partition(b":")
        if not name:
            return f"a comment is within an event: {shown(line)}"
        if name not in _NAMES:
            return f"{shown(line)} is not a line of an event"
        if not colon or not value.startswith(b" ") or value.startswith(b"  "):
            return f"not exactly one space after the colon: {shown(line)}"
    if not block.fields(b"event"):
        return f"no `event:` line: {shown(block.lines[0])}"
    for name in (b"event", b"data"):
        if len(block.fields(name)) > 1:
            return f"several `{name.decode()}:` lines in one event"
    return None


def id_order_problem(block: Block) -> str | None:
    """Check that an id never arrives before the data of its event."""
    ids, data = block.fields(b"id"), block.fields(b"data")
    if ids and data and ids[0] < data[-1]:
        return f"the id comes before the data: {shown(block.lines[ids[0]])}"
    return None


def id_text_problem(line: bytes) -> str | None:
    """Check that an id fits a header: printable ASCII, no longer than proxies accept."""
    value = line.partition(b":")[2].removeprefix(b" ")
    for byte in value:
        if not 0x20 <= byte <= 0x7E:
            return f"the id contains the byte 0x{byte:02x}: {shown(value)}"
    if len(value) > ID_BYTES_MAX:
        return f"the id has {len(value):,} bytes"
    return None


ID_BYTES_MAX = 7 * 1024
"""nginx and most servers accept header lines of up to 8 KiB."""


def data_problem(block: Block) -> str | None:
    """Check that data is JSON in UTF-8, on a line that no client splits."""
    values = [block.lines[n].partition(b":")[2] for n in block.fields(b"data")]
    try:
        text = b"\n".join(values).decode()
    except UnicodeDecodeError as error:
        return f"data is not UTF-8: {error}"
    for separator, name in SEPARATORS.items():
        if separator in text:
            return f"data contains a raw {name}, at which some clients end the line"
    try:
        json.loads(text)
    except ValueError as error:
        return f"data is not JSON: {error}: {shown(text)}"
    return None


def split_line_problem(body: bytes, chunk_ends: list[int]) -> str | None:
    """Check that no HTTP chunk ends within a line."""
    for end in chunk_ends:
        if not body[:end].endswith(b"\n"):
            return f"an HTTP chunk ends within a line, after {shown(body[max(0, end - 40) : end])}"
    return None
