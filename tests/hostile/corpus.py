"""Reads the cases of tests/hostile/corpus, one per line, each with a comment on its purpose."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "corpus"
_TIMES = re.compile(rb"<([^<>]+)\*(\d+)>")
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|[nrt0\\])")
_SHORT = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def cases(name: str) -> list[bytes]:
    """Return the cases of `corpus/NAME.txt`. `<text*n>` repeats a text; escapes are Python's."""
    lines = (_FOLDER / f"{name}.txt").read_bytes().split(b"\n")
    return [_made(line) for line in lines if line and not line.startswith(b"#")]


def names() -> list[str]:
    return sorted(file.stem for file in _FOLDER.glob("*.txt"))


def _made(line: bytes) -> bytes:
    repeated = _TIMES.sub(lambda found: found[1] * int(found[2]), line)
    return _ESCAPE.sub(lambda found: _byte(found[1]), repeated)


def _byte(escape: bytes) -> bytes:
    return _SHORT.get(escape) or bytes.fromhex(escape[1:].decode())
