"""Looks at JSON text without building anything from it, in steps of bounded time.

The text need not be JSON: whoever uses what is found here has the parser check it. Generators yield
wherever the event loop may do something else.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

_SLICE_BYTES = 16 * 1024
_PART_BYTES = 64 * 1024
_STEPS = 200
_DEPTH_MAX = 2000
_BRACKET = re.compile(rb"[\[\]{}]")
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_NESTED = re.compile(rb'[^"\[\]{}]*+(?:%b[^"\[\]{}]*+)*+' % _TEXT, re.DOTALL)
"""All up to the next bracket outside text, or up to a text that does not end in the slice."""
_TOP = re.compile(rb'[^"\[\]{},]*+(?:%b[^"\[\]{},]*+)*+' % _TEXT, re.DOTALL)
"""The same, up to the next comma, too."""
_QUOTE, _COMMA, _BACKSLASH = b'",\\'


def shape(text: bytes, values_max: int, depth_max: int) -> Generator[None, None, tuple[int, int]]:
    """Count the values of a JSON text and how deep they nest, or stop beyond one of the limits.

    Where both are certainly within the limits, they are estimates from above. An empty list or
    object with white space in it counts as two values.
    """
    opened = text.count(b"[") + text.count(b"{")
    values = 1 + text.count(b",") + opened
    if values <= values_max and opened <= depth_max:
        return values, opened
    values, depth, deepest = 1, 0, 0
    in_text = False
    at = 0
    while at < len(text) and values <= values_max and deepest <= depth_max:
        piece = text[at : at + _SLICE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and at + len(piece) < len(text):
            piece = piece[:-1]  # an escape is not cut in two
        at += len(piece)
        # Without escapes, each quotation mark begins or ends a text.
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


def parts(body: bytes) -> Iterator[bytes | None]:
    """Cut a JSON list, which begins with `[`, into lists of neighbouring elements.

    Each has about _PART_BYTES; an element that is larger is alone. Yields None where no list is
    complete yet. If `body` is not JSON, one of the lists is not, or is empty beside others, unless
    the fault is in a large element. Raises RecursionError like a parser.
    """
    at = first = element = paused = 1
    depth = 1
    in_text = False
    steps = 0
    while at < len(body) and depth:
        steps += 1
        if steps > _STEPS or at - paused > _SLICE_BYTES:
            yield None
            steps, paused = 0, at
        end = min(at + _SLICE_BYTES, len(body))
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
        elif byte == _BACKSLASH:  # an escape that the end of the slice cuts in two
            at += 1
        elif byte == _COMMA:
            large = at - element > _PART_BYTES
            if large and first < element:
                yield b"[%b]" % body[first : element - 1]
                first = element
            if large or at - first > _PART_BYTES:
                yield b"[%b]" % body[first : at - 1]
                first = at
            element = at
        else:
            depth += 1 if byte in b"[{" else -1
            if depth > _DEPTH_MAX:
                raise RecursionError
    if depth or at < len(body):
        yield b"[" if depth else b"[]]"  # which is not JSON, either
        return
    if first < element and len(body) - element > _PART_BYTES:
        yield b"[%b]" % body[first : element - 1]
        first = element
    yield b"[%b" % body[first:]
