"""Scans JSON text without building objects from it, in steps of bounded time.

The text need not be valid JSON; callers have the parser check what is found here. Generators yield
every step, so that the event loop can run other work.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

_SLICE_BYTES = 16 * 1024
"""How many bytes are scanned in one step."""
_PART_BYTES = 64 * 1024
"""The size of the parts of a list, in bytes."""
_STEPS = 200
_DEPTH_MAX = 2000
_BRACKET = re.compile(rb"[\[\]{}]")
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_NESTED = re.compile(rb'[^"\[\]{}]*+(?:%b[^"\[\]{}]*+)*+' % _TEXT, re.DOTALL)
"""Matches up to the next bracket outside a string, or up to a string that does not end in the
slice.
"""
_TOP = re.compile(rb'[^"\[\]{},]*+(?:%b[^"\[\]{},]*+)*+' % _TEXT, re.DOTALL)
"""Matches like _NESTED, but also stops at a comma."""
_QUOTE, _COMMA, _BACKSLASH = b'",\\'


def shape(
    text: bytes, values_max: int, depth_max: int, *, slice_bytes: int = _SLICE_BYTES
) -> Generator[None, None, tuple[int, int]]:
    """Count the values of a JSON text and its nesting depth, `slice_bytes` in each step.

    Counting stops once either limit is exceeded. If both are certainly within the limits, the
    counts are upper estimates. An empty list or object with white space in it counts as two values.
    """
    opened = text.count(b"[") + text.count(b"{")
    values = 1 + text.count(b",") + opened
    if values <= values_max and opened <= depth_max:
        return values, opened
    values, depth, deepest = 1, 0, 0
    in_text = False
    at = 0
    while at < len(text) and values <= values_max and deepest <= depth_max:
        piece = text[at : at + slice_bytes]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and at + len(piece) < len(text):
            piece = piece[:-1]  # do not cut an escape in two
        at += len(piece)
        # Without escapes, each quotation mark begins or ends a string.
        parts = piece.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b'"'.join(parts[in_text::2])
        in_text ^= (len(parts) - 1) % 2 == 1
        brackets = _BRACKET.findall(outside)
        empty = outside.count(b"[]") + outside.count(b"{}")
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{") - empty
        for bracket in brackets:
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        yield
    return values, deepest


def parts(
    body: bytes, *, slice_bytes: int = _SLICE_BYTES, part_bytes: int = _PART_BYTES
) -> Iterator[bytes | None]:
    """Cut a JSON list, which begins with `[`, into lists of adjacent elements.

    Each has about `part_bytes`; a larger element has a list to itself. Yields None to pause while
    no list is complete. If `body` is not JSON, then one of the lists is not JSON, or is empty
    although there are others, unless the fault lies inside a large element. Raises RecursionError
    if the nesting is too deep.
    """
    at = first = element = paused = 1
    depth = 1
    in_text = False
    steps = 0
    while at < len(body) and depth:
        steps += 1
        if steps > _STEPS or at - paused > slice_bytes:
            yield None
            steps, paused = 0, at
        end = min(at + slice_bytes, len(body))
        pattern = _IN_TEXT if in_text else _TOP if depth == 1 else _NESTED
        match = pattern.match(body, at, end)
        assert match is not None
        at = match.end()
        if at == end:
            continue
        byte = body[at]
        at += 1
        if byte == _QUOTE:
            in_text = not in_text
        elif byte == _BACKSLASH:  # an escape cut in two by the end of the slice
            at += 1
        elif byte == _COMMA:
            large = at - element > part_bytes
            if large and first < element:
                yield b"[%b]" % body[first : element - 1]
                first = element
            if large or at - first > part_bytes:
                yield b"[%b]" % body[first : at - 1]
                first = at
            element = at
        else:
            depth += 1 if byte in b"[{" else -1
            if depth > _DEPTH_MAX:
                raise RecursionError
    if depth or at < len(body):
        yield b"[" if depth else b"[]]"  # not JSON either
        return
    if first < element and len(body) - element > part_bytes:
        yield b"[%b]" % body[first : element - 1]
        first = element
    yield b"[%b" % body[first:]
