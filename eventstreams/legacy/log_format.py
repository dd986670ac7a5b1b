"""Parses lines of raw logs by a format string, as eventlogging-processor does.

A format string has a specifier for each field of a line: `%q %{recvFrom}s %{seqId}d %D %o %u`. One
of them, `%q` or `%j`, is the capsule. The others add fields to it; fields that the capsule itself
has take precedence.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from eventstreams.intake.document import EventProblem
from eventstreams.legacy.capsule import decode_query, read_capsule

_CAPSULES = "qj"
_NAMED = "sdi"
_UNNAMED: dict[str, str] = {"t": "dt", "D": "dt", "u": "userAgent", "o": ""}
"""The field that each of these specifiers means; empty for one that is ignored."""
_PATTERNS: dict[str, str] = {
    "q": r"(\?\S+)",
    "j": r"(\S+)",
    "s": r"(\S+)",
    "d": r"(\d+)",
    "i": r"([^\t]+)",
    "u": r"([^\t]+)",
    "o": r"(\S+)",
    "t": r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?)Z?",
    "D": r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?)Z?",
}
_TOKEN = re.compile(r"%(?:\{(?P<name>[^{}]*)\})?(?P<kind>.)?|\\t|\s+|[^%\s\\]+|\\")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_DIGITS_MAX = 18
_SHOWN_MAX = 200
"""Maximum characters of a line that are quoted in a message."""


class FormatError(ValueError):
    """An invalid format string; the message gives the problem and its place."""

    def __init__(self, text: str, at: int, reason: str) -> None:
        super().__init__(f"{reason}\n  {text}\n  {' ' * at}^")


class RawEvent(NamedTuple):
    """The contents of a line."""

    capsule: dict[str, Any]
    """The capsule with the fields of the line that it lacks, except `dt` and `userAgent`."""
    dt: str | None
    """The time of receipt according to the line: ISO 8601, in UTC."""
    user_agent: str | None
    uuid: str | None
    """The id as EventLogging derives it from recvFrom, seqId and dt; None if one of these is
    missing."""


class LogFormat:
    """A compiled format string."""

    def __init__(self, text: str) -> None:
        """Compile the format string. Raises FormatError."""
        self._text = text
        self._fields: list[tuple[str, str]] = []
        """The kind and the name of each group of the pattern."""
        self._pattern = re.compile("".join(self._compiled(text)), re.ASCII)
        if not any(kind in _CAPSULES for kind, _ in self._fields):
            raise FormatError(text, len(text), "a format needs %q or %j, which is the capsule")

    def _compiled(self, text: str) -> list[str]:
        parts: list[str] = []
        for token in _TOKEN.finditer(text):
            found = token[0]
            if found == "%%":
                parts.append("%")
            elif found.startswith("%"):
                parts.append(self._specifier(text, token))
            elif found == r"\t":
                parts.append(r"\t")
            elif found.isspace():
                parts.append(re.escape(found) if " " not in found else r"\s+")
            else:
                parts.append(re.escape(found))
        return parts

    def _specifier(self, text: str, token: re.Match[str]) -> str:
        kind, name, at = token["kind"] or "", token["name"], token.start()
        if kind not in _PATTERNS:
            known = ", ".join([*(f"%{each}" for each in "qjtDuo"), *(f"%{{…}}{e}" for e in _NAMED)])
            raise FormatError(text, at, f"{token[0]} is not one of {known}; a percent sign is %%")
        if kind in _NAMED:
            if not name or not _NAME.fullmatch(name):
                reason = f"%{kind} needs the name of a field, such as %{{seqId}}{kind}"
                raise FormatError(text, at, reason)
        elif name is not None:
            raise FormatError(text, at, f"%{kind} takes no name")
        else:
            name = _UNNAMED.get(kind, "capsule")
        if name and name in (other for _, other in self._fields):
            raise FormatError(text, at, f"{token[0]} is the second specifier of {name}")
        self._fields.append((kind, name))
        return _PATTERNS[kind]

    def parse(self, line: str, *, line_bytes_max: int) -> RawEvent:
        """Parse a line, given without its line end. Text after the format's end is ignored.

        Raises EventProblem.
        """
        match = self._pattern.match(line)
        if match is None:
            shown = line if len(line) <= _SHOWN_MAX else line[:_SHOWN_MAX] + "…"
            raise EventProblem(
                "RawLineError",
                f"the line does not fit the format {self._text!r}: {shown!r}",
                "the line does not fit the format",
            )
        capsule: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for (kind, name), value in zip(self._fields, match.groups(), strict=True):
            if kind == "q":
                query = value.encode("utf-8", "surrogateescape")
                capsule = decode_query(query, bytes_max=line_bytes_max, plus_is_space=True)
            elif kind == "j":
                capsule = read_capsule(value.encode("utf-8", "surrogateescape"))
            elif name:
                fields[name] = _cast(kind, name, value)
        merged = {**fields, **capsule}
        dt, user_agent = fields.pop("dt", None), fields.pop("userAgent", None)
        return RawEvent({**capsule, **{k: merged[k] for k in fields}}, dt, user_agent, _id(merged))


def _cast(kind: str, name: str, value: str) -> Any:
    """Return a field's value in its type. Raises EventProblem."""
    if kind == "d":
        if len(value) > _DIGITS_MAX:
            message = f"{name} has more than {_DIGITS_MAX} digits"
            raise EventProblem("RawLineError", message, "a number has too many digits")
        return int(value)
    if kind in "tD":
        try:
            datetime.fromisoformat(value)
        except ValueError as error:
            message = f"{value} is not a time: {error}"
            raise EventProblem("RawLineError", message, "a time is not one") from error
        return value + "Z"
    return value


def _id(fields: dict[str, Any]) -> str | None:
    values = [fields.get(name) for name in ("recvFrom", "seqId", "dt")]
    if None in values:
        return None
    receiver, number, dt = values
    return uuid5(NAMESPACE_URL, f"event://{receiver}/?seqId={number}&dt={dt}").hex
