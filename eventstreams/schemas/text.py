"""Serialises a schema as a materialized file, with keys in a fixed order so that diffs show
changes.

The YAML layout is that of js-yaml 3 (quotes, folding at 80 columns), as in existing repositories.
Writing such a file again yields the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

_FIRST = (
    "title", "description", "$id", "$schema", "type", "additionalProperties", "required",
    "properties", "allOf", "examples",
)  # fmt: skip
_RANK = {key: n for n, key in enumerate(_FIRST)}
_COLLATION = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
"""Punctuation in the order of Unicode collation, which sorts it before letters."""

_WIDTH = 80
_WIDTH_MIN = 40
_INDENT = 2
_WHOLE_MAX = 1e21
"""Smaller whole numbers are written without an exponent."""

_AMBIGUOUS = re.compile(
    r"""(?: ~ | null|Null|NULL | true|True|TRUE | false|False|FALSE | <<
        | y|Y|yes|Yes|YES|on|On|ON|n|N|no|No|NO|off|Off|OFF
        | [-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?
        | [-+]?0(?:b[01_]+|x[0-9a-fA-F_]+|o[0-7_]+)
        | [-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)? | [-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)
        | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[\ \t]+)[0-9].*)? )\Z""",
    re.VERBOSE,
)
"""Matches text that some YAML reader takes for another type."""
_PLAIN_FIRST = re.compile(r"""[^\s\-?:,\[\]{}#&*!=|>'"%@`]""")
_NOT_PLAIN = re.compile(r"[,\[\]{}:\n]|(?:^|\s)#")
_UNPRINTABLE = re.compile("[^\n\x20-\x7e\xa1-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_ESCAPES = {
    "\0": "\\0", "\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f",
    "\r": "\\r", "\x1b": "\\e", '"': '\\"', "\\": "\\\\", "\x85": "\\N", "\xa0": "\\_",
    "\u2028": "\\L", "\u2029": "\\P",
}  # fmt: skip


def to_text(document: Any, content_type: str, *, keeps_order: bool = False) -> str:
    """Return the document as text. `content_type` is yaml or json.

    With `keeps_order`, keys are in the order of the document and not in that of materialized files.
    """
    ordered = document if keeps_order else in_order(document)
    if content_type == "json":
        return json.dumps(ordered, indent=2, ensure_ascii=False)
    return "\n".join(_block(ordered, 0)) + "\n"


def in_order(value: Any) -> Any:
    """Return the same value with all keys in the order of materialized files."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        return {key: in_order(mapping[key]) for key in sorted(mapping, key=_key)}
    if isinstance(value, list):
        return [in_order(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_MAX:
        return int(value)  # JSON has only one number type
    return value


def _key(key: str) -> tuple[Any, ...]:
    rank = _RANK.get(key, len(_RANK))
    return (rank, [_letter(c) for c in key], [c.isupper() for c in key], key)


def _letter(c: str) -> tuple[bool, int, str]:
    punctuation = _COLLATION.find(c)
    return (punctuation < 0, punctuation, c.casefold())


def _block(value: Any, level: int) -> Iterator[str]:
    """Yield the lines of a value that begins on its own line."""
    pad = " " * (_INDENT * level)
    if isinstance(value, dict) and value:
        for key, item in cast("dict[str, Any]", value).items():
            name = _scalar(key, level, one_line=True)
            if _is_block(item):
                yield f"{pad}{name}:"
                yield from _block(item, level + 1)
            else:
                yield f"{pad}{name}: {_inline(item, level + 1)}"
    elif isinstance(value, list) and value:
        for item in cast("list[Any]", value):
            if _is_block(item):
                first, *others = _block(item, level + 1)
                yield f"{pad}- {first.lstrip(' ')}"
                yield from others
            else:
                yield f"{pad}- {_inline(item, level + 1)}"
    else:
        yield pad + _inline(value, level)


def _is_block(value: Any) -> bool:
    return isinstance(value, dict | list) and bool(cast("Any", value))


def _inline(value: Any, level: int) -> str:
    if isinstance(value, str):
        return _scalar(value, level)
    return json.dumps(value)


def _scalar(text: str, level: int, *, one_line: bool = False) -> str:
    indent = _INDENT * max(1, level)
    width = max(_WIDTH_MIN, _WIDTH - indent)
    if not text:
        return "''"
    if _UNPRINTABLE.search(text) or (one_line and "\n" in text):
        return '"' + "".join(map(_escape, text)) + '"'
    foldable = any(len(line) > width and line[0] != " " for line in text.split("\n"))
    if one_line or not ("\n" in text or foldable):
        plain = _PLAIN_FIRST.match(text) and not text[-1].isspace() and not _NOT_PLAIN.search(text)
        if plain and not _AMBIGUOUS.match(text):
            return text
        return "'" + text.replace("'", "''") + "'"
    header = (str(_INDENT) if text.lstrip("\n").startswith(" ") else "") + _chomping(text)
    body = _fold(text, width) if foldable else text
    lines = body.removesuffix("\n").split("\n")
    padded = [" " * indent + line if line else "" for line in lines]
    return "\n".join([(">" if foldable else "|") + header, *padded])


def _escape(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    if not _UNPRINTABLE.match(c):
        return c
    code = ord(c)
    return (
        f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 65536 else f"\\U{code:08X}"
    )


def _chomping(text: str) -> str:
    if not text.endswith("\n"):
        return "-"
    return "+" if text == "\n" or text.endswith("\n\n") else ""


def _fold(text: str, width: int) -> str:
    """Return the text with long lines folded at spaces.

    A line break in the text becomes an empty line, except beside lines that begin with a space,
    which YAML does not fold.
    """
    head, *rest = re.split(r"(\n+)", text)
    folded = _fold_line(head, width)
    indented = text[0] in "\n "
    for breaks, line in zip(rest[::2], rest[1::2], strict=True):
        indents = line.startswith(" ")
        folded += breaks + ("\n" if line and not indented and not indents else "")
        folded += _fold_line(line, width)
        indented = indents
    return folded


def _fold_line(line: str, width: int) -> str:
    if not line or line[0] == " ":
        return line
    parts: list[str] = []
    start = last = 0
    for match in re.finditer(r" (?=[^ ])", line):
        if match.start() - start > width:
            end = last if last > start else match.start()
            parts.append(line[start:end])
            start = end + 1
        last = match.start()
    if len(line) - start > width and last > start:
        parts.append(line[start:last])
        start = last + 1
    return "\n".join([*parts, line[start:]])
