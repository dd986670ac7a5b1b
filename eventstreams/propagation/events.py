"""Writes and reads retry events and error events, in the format of change-propagation.

A retry event contains the original event and goes to `<service>.retry.<topic>`; an error event
contains it as text and goes to `<service>.error`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from eventstreams.model.timestamp import parse_moment, parse_timestamp
from eventstreams.propagation.retry import RetryPolicy
from eventstreams.propagation.trigger import chain_of, meta_of

RETRY_SCHEMA = "/change-prop/retry/1.0.0"
ERROR_SCHEMA = "/error/2.1.0"
RAW_CHARACTERS_MAX = 128 * 1024
_MESSAGE_MAX = 8 * 1024
_NAME_MAX = 400


@dataclass(frozen=True, slots=True)
class Retry:
    """The content of a retry event."""

    original: dict[str, Any]
    retries_left: int
    """Retries left, before this one."""
    due_ms: int
    trigger: str
    """The chain of events for what the retry triggers."""


def retry_event(
    *,
    event: dict[str, Any],
    trigger: str,
    stream: str,
    emitter_id: str,
    retries_left: int,
    status: int,
    reason: str,
    now_ms: int,
    due_ms: int,
) -> bytes:
    """Return the JSON of a retry event. `trigger` is the chain that led to the failed attempt."""
    return _json(
        {
            "$schema": RETRY_SCHEMA,
            "meta": _meta(event, stream, now_ms),
            "dt": iso(now_ms),
            "triggered_by": trigger,
            "emitter_id": emitter_id,
            "retries_left": retries_left,
            "original_event": event,
            "error_status": status,
            "reason": reason[:_MESSAGE_MAX],
            "not_before": iso(due_ms),
        }
    )


def read_retry(document: Any, *, emitter_id: str, policy: RetryPolicy, now_ms: int) -> Retry | None:
    """Return the content of a retry event; None if it is no retry event, or that of another rule.

    An event written by change-propagation has no `not_before`, and is due after the delay of the
    rule.
    """
    if not isinstance(document, dict):
        return None
    fields = cast("dict[str, Any]", document)
    original, left = fields.get("original_event"), fields.get("retries_left")
    if fields.get("emitter_id") != emitter_id or not isinstance(original, dict):
        return None
    if isinstance(left, bool) or not isinstance(left, int):
        return None
    left = max(0, left)
    due_ms = _time(fields.get("not_before"))
    made_ms = _time(meta_of(fields).get("dt"))
    if due_ms is None:
        wait_ms = policy.wait_ms(left, 0.0)
        due_ms = (now_ms if made_ms is None else made_ms) + wait_ms
    if made_ms is not None:  # no longer than was meant, if the clock was set back since
        due_ms = min(due_ms, now_ms + max(0, due_ms - made_ms))
    return Retry(cast("dict[str, Any]", original), left, due_ms, chain_of(fields))


def error_event(
    *,
    event: Any,
    raw: bytes | None,
    stream: str,
    emitter_id: str,
    kind: str,
    message: str,
    now_ms: int,
) -> bytes:
    """Return the JSON of an error event. `event` is None if the event could not be parsed."""
    text = raw.decode("utf-8", "replace") if raw is not None else ""
    document: dict[str, Any] = {
        "$schema": ERROR_SCHEMA,
        "meta": _meta(event, stream, now_ms),
        "dt": iso(now_ms),
        "emitter_id": emitter_id,
        "error_type": kind,
        "message": message[:_MESSAGE_MAX],
        "raw_event": text if len(text) <= RAW_CHARACTERS_MAX else text[:RAW_CHARACTERS_MAX] + "…",
    }
    fields = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    for name, value in (
        ("errored_schema_uri", fields.get("$schema")),
        ("errored_stream_name", meta_of(event).get("stream")),
    ):
        if isinstance(value, str):
            document[name] = value[:_NAME_MAX]
    if fields:
        document["triggered_by"] = chain_of(fields)
    return _json(document)


def delayed_until(event: Mapping[str, Any], now_ms: int) -> int | None:
    """Return the Unix time in ms of `delay_until` (ISO 8601 or Unix seconds); None without it."""
    value = event.get("delay_until")
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value * 1000) if abs(value) < 1e11 else int(value)
    return parse_moment(value, now_ms) if isinstance(value, str) else None


def iso(moment_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03}Z"


def read_json(value: bytes) -> Any:
    """Parse JSON with integers of any size. Raises ValueError."""
    try:
        return json.loads(value, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _meta(event: Any, stream: str, now_ms: int) -> dict[str, Any]:
    known = meta_of(event)
    meta: dict[str, Any] = {"stream": stream, "id": str(uuid4()), "dt": iso(now_ms)}
    for name, otherwise in (("uri", ""), ("domain", "unknown"), ("request_id", None)):
        value = known.get(name)
        if isinstance(value, str) and value:
            meta[name] = value[: _NAME_MAX * 20]
        elif otherwise is not None:
            meta[name] = otherwise
    return meta


def _time(value: Any) -> int | None:
    return parse_timestamp(value) if isinstance(value, str) else None


def _json(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")
