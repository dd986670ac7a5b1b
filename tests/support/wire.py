"""Parses frames as a client would, by the standard and without our own code."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Frame(NamedTuple):
    event: str
    data: str
    id: str | None


def frames_of(body: bytes) -> list[Frame]:
    """Return the complete frames in `body`.

    An incomplete frame is not returned and its id does not count: the standard sets the last event
    id when a frame is dispatched.
    """
    frames: list[Frame] = []
    event = ""
    data: list[str] = []
    last_id: str | None = None
    *lines, _torn = body.decode("utf-8", "replace").split("\n")
    for line in lines:
        if not line:
            if data:
                frames.append(Frame(event or "message", "\n".join(data), last_id))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value
    return frames


def place_of(frame: Frame) -> tuple[str, int, int]:
    """Return the topic, partition and offset that the event itself contains."""
    meta: dict[str, Any] = json.loads(frame.data)["meta"]
    return meta["topic"], meta["partition"], meta["offset"]
