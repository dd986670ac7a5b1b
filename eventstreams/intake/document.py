"""From the bytes of a request to its events, and from one event's bytes to a document and back.

Integers of any size stay what they are, and keys keep their order. A whole number with a fraction
or an exponent (1.0, 1e2) becomes an integer, as EventGate writes it: readers that are typed by the
schema take 1.0 for no integer. What JSON text can't be exactly is refused: invalid UTF-8, half of a
surrogate pair, numbers beyond a double.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, cast

import msgspec

from eventstreams.errors import BadBody, BodyTooLarge

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_EVENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONG_NUMBER = re.compile(rb"[0-9]{16}")
_EXACT = 2**53
_EXPONENT_FROM = 1e21
_FRACTION = re.compile(rb"[0-9](?:\.0+(?![0-9])|(?:\.[0-9]+)?[eE])")
"""In every number that is whole and does not look like it, and in some texts."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ANY_ESCAPE = rb"\\u00aa"
"""As long, and not more of an escape than what it replaces."""
_BETWEEN = b" \t\r\n,"
_BOM = b"\xef\xbb\xbf"


class EventProblem(Exception):
    """Why one event is refused. `kind` is a name for programs, as in events of errors.

    `message` may repeat parts of the event. `rule` says which rule the event breaks and holds
    nothing of it, for those who may not see the event.
    """

    def __init__(self, kind: str, message: str, rule: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self._rule = rule

    @property
    def rule(self) -> str:
        return self._rule


def split(body: bytes, *, events_max: int, lenient: bool) -> list[bytes]:
    """The JSON of each event, in order; none where the body holds nothing.

    `lenient` replaces what is not UTF-8, as upstream does. Raises BadBody, BodyTooLarge.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            if not lenient:
                raise BadBody(f"not UTF-8: byte {error.start} of the body") from error
            body = body.decode("utf-8", "replace").encode()
    body = body.removeprefix(_BOM).strip(b" \t\r\n")
    if not body:
        return []
    if body[:1] not in (b"{", b"["):
        raise BadBody("the body is neither a JSON object nor a list of them")
    try:
        events = _elements(body) if body[:1] == b"[" else _alone(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad(error) from error
    if len(events) > events_max:
        raise BodyTooLarge(f"{len(events)} events in one request; at most {events_max} are taken")
    return events


def _alone(body: bytes) -> list[bytes]:
    """Of one object; none where it is empty. Raises DecodeError, RecursionError."""
    masked = _SURROGATE.sub(_ANY_ESCAPE, body)
    msgspec.json.decode(masked, type=msgspec.Raw)
    return [body] if body[1:-1].strip(b" \t\r\n") else []


def _elements(body: bytes) -> list[bytes]:
    """Of a list, each as it stands. Raises DecodeError, RecursionError."""
    try:
        return [bytes(event) for event in _EVENTS.decode(body)]
    except msgspec.DecodeError:
        # Half of a surrogate pair is the fault of its event alone, and of no other.
        masked = _SURROGATE.sub(_ANY_ESCAPE, body)
        if masked == body:
            raise
    found: list[bytes] = []
    at = 1
    for event in _EVENTS.decode(masked):
        while body[at] in _BETWEEN:
            at += 1
        size = len(bytes(event))
        found.append(body[at : at + size])
        at += size
    return found


def _bad(error: Exception) -> BadBody:
    if isinstance(error, RecursionError):
        return BadBody("the JSON is nested too deeply")
    text = str(error).removeprefix("JSON is malformed: ")
    return BadBody(f"not JSON: {text}")


def read(event: bytes, *, bytes_max: int, depth_max: int, lenient: bool) -> Any:
    """The document of one event. `lenient` rounds integers as JavaScript does.

    Raises EventProblem.
    """
    if len(event) > bytes_max:
        raise too_large(f"event has {len(event)} bytes", bytes_max)
    if event.count(b"{") + event.count(b"[") > depth_max and _depth(event) > depth_max:
        message = f"event is nested more than {depth_max} deep"
        raise EventProblem("EventTooDeepError", message, message)
    try:
        document = _EVENT.decode(event)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        message = f"event can't be read: {error}"
        raise EventProblem("SyntaxError", message, "event can't be read") from error
    if _FRACTION.search(event) or (lenient and _LONG_NUMBER.search(event)):
        document = _numbers(document, rounded=lenient)
    return document


def too_large(found: str, bytes_max: int) -> EventProblem:
    message = f"{found}; at most {bytes_max} are taken"
    return EventProblem("EventTooLargeError", message, f"event has more than {bytes_max} bytes")


def write(document: Any) -> bytes:
    return _ENCODER.encode(document)


def _depth(event: bytes) -> int:
    depth = deepest = 0
    for byte in _TEXT.sub(b"", event):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _numbers(value: Any, *, rounded: bool) -> Any:
    """Whole numbers without a fraction, as JavaScript writes them: 1.0 and 1e0 are 1, -0.0 is 0.

    `rounded`: integers as a double holds them, too.
    """
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: _numbers(item, rounded=rounded) for key, item in fields.items()}
    if isinstance(value, list):
        return [_numbers(item, rounded=rounded) for item in cast("list[Any]", value)]
    if isinstance(value, float):
        return _whole(value)
    if rounded and isinstance(value, int) and not -_EXACT <= value <= _EXACT:
        try:
            return _whole(float(value))
        except OverflowError:
            return None  # what JSON.stringify makes of Infinity
    return value


def _whole(value: float) -> float | int:
    """With the digits that JavaScript prints, if it prints no exponent."""
    is_whole = value.is_integer() and abs(value) < _EXPONENT_FROM
    return int(Decimal(repr(value))) if is_whole else value
