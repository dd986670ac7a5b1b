"""Makes control characters visible, in texts from elsewhere that go to a terminal or a log."""

from __future__ import annotations

import re

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that some programs treat as line ends, that control a terminal, or that reverse the
order of text. They occur in names, user agents and the texts of servers."""


def visible(text: str, *, keeps_lines: bool = False) -> str:
    """Return the text without characters that move the cursor, change colours or begin a line.

    They become escapes like `\\x1b`. With `keeps_lines`, line feeds stay.
    """
    return UNSAFE.sub(lambda found: _escape(found[0], keeps_lines=keeps_lines), text)


def _escape(character: str, *, keeps_lines: bool) -> str:
    if keeps_lines and character == "\n":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
