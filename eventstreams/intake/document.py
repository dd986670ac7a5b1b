"""Splits the body of a request into events, and converts one event between bytes and a document.

Integers of any size stay exact, and keys keep their order. A whole number written with a fraction
or an exponent (1.0, 1e2) becomes an integer, as in EventGate, because consumers that take their
types from the schema do not accept 1.0 as an integer. Values that JSON text cannot represent
exactly are refused: invalid UTF-8, an unpaired surrogate, numbers beyond the range of a double.

Functions that return a generator yield every few milliseconds at most, so that the event loop can
run other work.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Generator
from decimal import Decimal
from typing import Any, TypeVar, cast

import msgspec

from eventstreams.errors import BadBody, BodyTooLarge
from eventstreams.intake import scanning

T = TypeVar("T")
Steps = Generator[None, None, T]

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_EVENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_LONG_NUMBER = re.compile(rb"[0-9]{16}")
_EXACT = 2**53
_EXPONENT_FROM = 1e21
_FRACTION = re.compile(rb"[:,\[\s]-?[0-9]++(?:\.0+(?![0-9])|(?:\.[0-9]+)?[eE])")
"""Matches every whole number that is written with a fraction or an exponent, and few strings."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6
_ANY_ESCAPE = rb"\\u00aa"
"""An escape of the same length as an unpaired surrogate, which can replace one."""
_BETWEEN = re.compile(rb"[ \t\r\n,]*")
_BOM = b"\xef\xbb\xbf"
_SLICE_BYTES = 128 * 1024
CHECKED_BYTES = 2**20
"""Events up to this size, or up to `event_bytes_max` if that is larger, are known to be JSON after
the split."""
_WHOLE_BYTES = 2**20
_COMMAS_MAX = 50_000
"""Commas in a list that the parser splits in one call, within 4 ms."""
_BLANK = b" \t\r\n"
LARGE_BYTES = 16 * 1024
"""Larger events are processed in several steps, because they may hold many values."""


class EventProblem(Exception):
    """The reason why an event is refused.

    `kind` is a machine-readable name, as in error events. `message` may quote parts of the event.
    `rule` names the rule that the event breaks and quotes nothing from it, for readers who may not
    see the event.
    """

    def __init__(self, kind: str, message: str, rule: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self._rule = rule

    @property
    def rule(self) -> str:
        return self._rule


def copies_of(body: bytes) -> int:
    """Return how many copies of a body exist at most while it is split, including the body
    itself."""
    is_bare = body[:1] in (b"{", b"[") and body[-1:] in (b"}", b"]")
    return 2 + (not is_bare) + (b"\\u" in body)


def split(
    body: bytes,
    *,
    events_max: int,
    event_bytes_max: int,
    lenient: bool,
    found: Callable[[int], None] = lambda _: None,
) -> Steps[list[bytes]]:
    """Return the JSON of each event in order, or an empty list for an empty body.

    An event larger than both `event_bytes_max` and CHECKED_BYTES may not be valid JSON. `lenient`
    replaces invalid UTF-8, as EventGate does. `found` is called with the number of events found so
    far, whenever the work may be interrupted. Raises BadBody, BodyTooLarge, and any exception that
    `found` raises.
    """
    if not body.isascii():
        body = yield from _utf8(body, lenient=lenient)
    body = yield from _stripped(body.removeprefix(_BOM))
    if not body:
        return []
    if body[:1] not in (b"{", b"["):
        raise BadBody("the body is neither a JSON object nor a list of objects")
    yield
    try:
        if body[:1] == b"[":
            return (yield from _elements(body, events_max, event_bytes_max, found))
        return (yield from _alone(body, event_bytes_max))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad(error) from error


def _stripped(text: bytes) -> Steps[bytes]:
    """Return `text` without surrounding white space."""
    first, last = 0, len(text)
    while first < last and not text[first : first + _SLICE_BYTES].strip(_BLANK):
        first += _SLICE_BYTES
        yield
    while first < last and not text[max(first, last - _SLICE_BYTES) : last].strip(_BLANK):
        last -= _SLICE_BYTES
        yield
    return text[first:last].strip(_BLANK)


def _utf8(body: bytes, *, lenient: bool) -> Steps[bytes]:
    """Return the body as valid UTF-8. Raises BadBody."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace" if lenient else "strict")
    parts: list[bytes] = []
    for at in range(0, len(body), _SLICE_BYTES):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(body[at : at + _SLICE_BYTES], at + _SLICE_BYTES >= len(body))
        except UnicodeDecodeError as error:
            place = at - pending + error.start
            raise BadBody(f"not UTF-8: byte {place} of the body") from error
        if lenient:
            parts.append(text.encode())
        yield
    return b"".join(parts) if lenient else body


def _alone(body: bytes, event_bytes_max: int) -> Steps[list[bytes]]:
    """Return the event of a body that is one object; no event if the object is empty.

    Raises DecodeError, RecursionError.
    """
    if len(body) > max(event_bytes_max, CHECKED_BYTES):
        return [body]
    masked = yield from _masked(body)
    msgspec.json.decode(masked, type=msgspec.Raw)
    return [body] if body[1:-1].strip(_BLANK) else []


def _elements(
    body: bytes, events_max: int, event_bytes_max: int, count: Callable[[int], None]
) -> Steps[list[bytes]]:
    """Return the elements of a body that is a list, unchanged.

    Raises DecodeError, RecursionError, BodyTooLarge, BadBody.
    """
    if len(body) <= _WHOLE_BYTES and body.count(b",") <= _COMMAS_MAX:
        some = yield from _some_elements(body, events_max)
        count(len(some))
        return some
    found: list[bytes] = []
    parts = empty = 0
    for part in scanning.parts(body):
        yield
        if part is None:
            continue
        try:
            these = yield from _of_part(part, events_max, max(event_bytes_max, CHECKED_BYTES))
        except msgspec.DecodeError as error:
            text = str(_bad(error)).partition(" (byte")[0]
            raise BadBody(f"{text}, after {len(found)} events") from error
        parts += 1
        empty += not these
        if empty and parts > 1:
            raise BadBody(f"not JSON: nothing between two commas, after {len(found)} events")
        found += these
        _refuse_more(len(found), events_max)
        count(len(found))
    return found


def _of_part(part: bytes, events_max: int, checked_bytes_max: int) -> Steps[list[bytes]]:
    """Return the elements of one part of a large list. An element that is too large is not
    parsed."""
    if len(part) > checked_bytes_max:
        element = yield from _stripped(part[1:-1])
        if len(element) > checked_bytes_max:
            return [element]
        part = b"[%b]" % element
    return (yield from _some_elements(part, events_max))


def _some_elements(body: bytes, events_max: int) -> Steps[list[bytes]]:
    """Return the elements of a list that is small enough to split in one call."""
    try:
        raw = _EVENTS.decode(body)
    except msgspec.DecodeError:
        # An unpaired surrogate makes its own event invalid, but no other event.
        masked = yield from _masked(body)
        if masked == body:
            raise
        return (yield from _masked_elements(body, masked, events_max))
    _refuse_more(len(raw), events_max)
    return [bytes(event) for event in raw]


def _masked_elements(body: bytes, masked: bytes, events_max: int) -> Steps[list[bytes]]:
    """Return the elements of `body` at the places where the elements of `masked` are."""
    raw = _EVENTS.decode(masked)
    _refuse_more(len(raw), events_max)
    yield
    found: list[bytes] = []
    at = 1
    for event in raw:
        at = _place(_BETWEEN.match(body, at))
        size = len(bytes(event))
        found.append(body[at : at + size])
        at += size
    return found


def _place(match: re.Match[bytes] | None) -> int:
    assert match is not None
    return match.end()


def _refuse_more(count: int, events_max: int) -> None:
    if count > events_max:
        raise BodyTooLarge(f"too many events in one request; the limit is {events_max}")


def _masked(body: bytes) -> Steps[bytes]:
    """Return the body with each unpaired surrogate replaced by an escape of the same length."""
    if b"\\u" not in body:
        return body
    parts: list[bytes] = []
    at = 0
    while at < len(body):
        end = at + _SLICE_BYTES
        if end < len(body):  # do not cut an escape in two
            escape = body.rfind(b"\\", end - _ESCAPE_BYTES + 1, end)
            end = escape if escape > at else end
        parts.append(_SURROGATE.sub(_ANY_ESCAPE, body[at:end]))
        at = end
        yield
    return b"".join(parts)


def _bad(error: Exception) -> BadBody:
    if isinstance(error, RecursionError):
        return BadBody("the JSON is nested too deeply")
    text = str(error).removeprefix("JSON is malformed: ")
    return BadBody(f"not JSON: {text}")


def read(
    event: bytes, *, bytes_max: int, values_max: int, depth_max: int, lenient: bool
) -> Steps[Any]:
    """Return the document of one event. `lenient` rounds integers as JavaScript does.

    Raises EventProblem.
    """
    if len(event) > bytes_max:
        raise too_large(f"event has {len(event)} bytes", bytes_max)
    large = len(event) > LARGE_BYTES
    may_hold_more = len(event) > 2 * values_max
    if may_hold_more or event.count(b"{") + event.count(b"[") > depth_max:
        values, depth = yield from scanning.shape(event, values_max, depth_max)
        if values > values_max:
            raise too_many_values(values_max)
        if depth > depth_max:
            message = f"event is nested more than {depth_max} deep"
            raise EventProblem("EventTooDeepError", message, message)
    document = _decoded(event)
    if large:
        yield
    if _has_odd_numbers(event, lenient=lenient):
        document = _numbers(document, rounded=lenient)
        if large:
            yield
    return document


def parse(event: bytes, *, lenient: bool) -> Any:
    """Return the document of an event that is known to keep the limits, in one call.

    `lenient` rounds integers as JavaScript does. Raises EventProblem.
    """
    document = _decoded(event)
    if _has_odd_numbers(event, lenient=lenient):
        document = _numbers(document, rounded=lenient)
    return document


def _decoded(event: bytes) -> Any:
    """Return the decoded JSON. Raises EventProblem."""
    try:
        return _EVENT.decode(event)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        message = f"event cannot be read: {error}"
        raise EventProblem("SyntaxError", message, "event cannot be read") from error


def _has_odd_numbers(event: bytes, *, lenient: bool) -> bool:
    """Return whether some numbers may have to be rewritten."""
    found = _FRACTION.search(event) or (lenient and _LONG_NUMBER.search(event))
    return bool(found)


def too_large(found: str, bytes_max: int) -> EventProblem:
    message = f"{found}; the limit is {bytes_max}"
    return EventProblem("EventTooLargeError", message, f"event has more than {bytes_max} bytes")


def too_many_values(values_max: int) -> EventProblem:
    message = f"event has more than {values_max} values"
    return EventProblem("EventTooLargeError", message, message)


def write(document: Any) -> bytes:
    return _ENCODER.encode(document)


def _numbers(value: Any, *, rounded: bool) -> Any:
    """Return `value` with its whole numbers written as in JavaScript: 1.0 and 1e0 are 1, -0.0 is 0.

    `rounded` also rounds integers to the precision of a double.
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
            return None  # JSON.stringify writes Infinity as null
    return value


def _whole(value: float) -> float | int:
    """Return an integer with the digits that JavaScript prints, unless it prints an exponent."""
    is_whole = value.is_integer() and abs(value) < _EXPONENT_FROM
    return int(Decimal(repr(value))) if is_whole else value
