"""Interprets the answer of an intake (ours or an EventGate) for each event of a request.

Only what an intake reports about an event decides its outcome. After anything else (no answer, an
error page of a proxy, a missing key, a wrong address) the event is sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from eventstreams.model.retry_after import parse_retry_after

_WAIT_S_MAX = 600.0
_DETAIL_MAX = 500
"""Maximum characters quoted from an answer."""


class Fate(Enum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"
    """The intake tried to store this event and failed."""
    UNANSWERED = "unanswered"
    """The answer does not mention this event."""


class Verdict(NamedTuple):
    fate: Fate
    reason: str = ""


class Answer(NamedTuple):
    verdicts: list[Verdict]
    """One verdict for each event, in order."""
    wait_s: float = 0.0
    """Seconds to wait according to Retry-After."""
    too_much: bool = False
    """Whether fewer events in a request might fit, or give a clearer answer."""


def unanswered(count: int, reason: str) -> Answer:
    return Answer([Verdict(Fate.UNANSWERED, reason)] * count)


def read(
    status: int, headers: Mapping[str, str], body: bytes, lines: Sequence[bytes], now_s: float
) -> Answer:
    """Return what an answer says of each event.

    `headers` are looked up ignoring case, `lines` are the events as sent, and `now_s` is the time
    in seconds since 1970.
    """
    count = len(lines)
    if status in (201, 202):
        return Answer([Verdict(Fate.ACCEPTED)] * count)
    document = _object(body)
    if status in (207, 400, 500) and ("invalid" in document or "error" in document):
        return _elements(status, document, lines)
    reason = _reason(status, headers, document)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
        status in (400, 422) and isinstance(document.get("detail"), str)
    ):
        if count == 1:
            return Answer([Verdict(Fate.REJECTED, reason)])
        return unanswered(count, reason)._replace(too_much=True)
    wait_s = parse_retry_after(headers.get("retry-after"), now_s) or 0.0
    return unanswered(count, reason)._replace(wait_s=min(wait_s, _WAIT_S_MAX))


def _elements(status: int, document: dict[str, Any], lines: Sequence[bytes]) -> Answer:
    """Return the verdicts of an answer with elements.

    An element of our intake names its event by `index`; an element of EventGate repeats the event.
    """
    named: dict[int, Verdict] = {}
    lost = False
    places: _Places | None = None
    for kind, fate in (("invalid", Fate.REJECTED), ("error", Fate.FAILED)):
        elements = document.get(kind)
        for element in cast("list[Any]", elements) if isinstance(elements, list) else ():
            fields = cast("dict[str, Any]", element) if isinstance(element, dict) else {}
            index = fields.get("index")
            if type(index) is not int or not 0 <= index < len(lines):
                places = places or _Places(lines)
                index = places.take(fields.get("event"))
            if index is None:
                lost = True
            else:
                named[index] = Verdict(fate, _text(fields, fate))
    if status == HTTPStatus.MULTI_STATUS and not lost:
        rest = Verdict(Fate.ACCEPTED)
    else:
        rest = Verdict(Fate.UNANSWERED, f"{status}, which does not say what happened to this event")
    verdicts = [named.get(index, rest) for index in range(len(lines))]
    return Answer(verdicts, too_much=rest in verdicts and rest.fate is not Fate.ACCEPTED)


class _Places:
    """Finds the indexes of events in a request, by meta.id or otherwise by their whole content."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._count = len(lines)
        self._indexes: dict[str, list[int]] = {}
        for index, line in enumerate(lines):
            self._indexes.setdefault(_identity(json.loads(line)), []).append(index)
        for indexes in self._indexes.values():
            indexes.reverse()

    def take(self, event: Any) -> int | None:
        """Return the index of an event, or None if there is none. Equal events are taken in
        order."""
        indexes = self._indexes.get(_identity(event))
        if indexes is None and self._count == 1:
            return 0
        return indexes.pop() if indexes else None


def _identity(event: Any) -> str:
    meta = cast("dict[str, Any]", event).get("meta") if isinstance(event, dict) else None
    id_ = cast("dict[str, Any]", meta).get("id") if isinstance(meta, dict) else None
    return json.dumps({"id": id_} if isinstance(id_, str) else [event], sort_keys=True)


def _text(element: dict[str, Any], fate: Fate) -> str:
    context = element.get("context")
    if isinstance(context, dict):
        for key in ("errorsText", "message"):
            text = cast("dict[str, Any]", context).get(key)
            if isinstance(text, str) and text:
                return text[:_DETAIL_MAX]
    return f"{fate.value}, without a reason"


def _reason(status: int, headers: Mapping[str, str], document: dict[str, Any]) -> str:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    parts = [f"{status} {phrase}".strip()]
    if isinstance(document.get("detail"), str):
        parts.append(document["detail"][:_DETAIL_MAX])
    elif status in (301, 302, 303, 307, 308) and headers.get("location"):
        parts.append(f"post to {headers['location'][:_DETAIL_MAX]}")
    return ": ".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}
