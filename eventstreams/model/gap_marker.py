"""Makes and reads gap markers: records before which events are missing.

A relay appends one if its upstream has lost events, so that its own readers get the same report as
those of the upstream. A log that was restored from a backup has one in each partition, because the
events that followed the backup are lost. Markers are recognized by their keys, which the intake
never produces. Every key is unique, so compaction keeps every marker.
"""

from __future__ import annotations

import secrets
from typing import Any, cast

import orjson

from eventstreams.model.event import Event, Record

UPSTREAM = "upstream"
RESTORED = "restored"
_KEY = b"\0eventstreams.gap\0"
_REPORT_BYTES_MAX = 64 * 1024
_MESSAGES = {
    UPSTREAM: "The upstream lost some events, so they were not copied here",
    RESTORED: "The log was restored from a backup; the events that followed it are lost",
}
"""The causes of recorded gaps, and the message of each to clients."""


def gap_record(topic: str, partition: int, report: Any) -> Record:
    """Return a marker for our topic and partition. `report` is the upstream's report of the gap."""
    if len(orjson.dumps(report)) > _REPORT_BYTES_MAX:
        report = {"message": "The upstream's report of the gap is too long to be kept"}
    return _marker(topic, partition, {"cause": UPSTREAM, "upstream": report})


def restored_record(topic: str, partition: int) -> Record:
    """Return a marker for the end of a partition that was restored from a backup."""
    return _marker(topic, partition, {"cause": RESTORED})


def _marker(topic: str, partition: int, value: dict[str, Any]) -> Record:
    key = _KEY + secrets.token_bytes(8)
    return Record(topic, orjson.dumps(value), key=key, partition=partition)


def is_gap_marker(event: Event) -> bool:
    """Return whether the record is a marker."""
    return event.key is not None and event.key.startswith(_KEY)


def marker_document(event: Event) -> dict[str, Any]:
    """Return the data of the `gap` event that clients get for this marker."""
    topic, number = event.partition
    value = _fields(event.value)
    cause = RESTORED if value.get("cause") == RESTORED else UPSTREAM
    entry: dict[str, Any] = {
        "topic": topic,
        "partition": number,
        "requested": event.offset,
        "resumed": event.offset + 1,
        "cause": cause,
    }
    if "upstream" in value:
        entry["upstream"] = value["upstream"]
    return {"message": _MESSAGES[cause], "partitions": [entry]}


def cause_of(document: dict[str, Any]) -> str:
    """Return the cause of the gap that such a document reports."""
    [entry] = document["partitions"]
    return str(entry["cause"])


def _fields(value: bytes | None) -> dict[str, Any]:
    """Return the JSON object in the value of a marker, or an empty one if there is none."""
    try:
        document: Any = orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}
