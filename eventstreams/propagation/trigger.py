"""Extends chains of events: `triggered_by` lists the events that led to one, which reveals loops.

The form is `req:<request id>,<stream>:<uri>[,<stream>:<uri>…]`, oldest first.
"""

from __future__ import annotations

from typing import Any, cast

CHAIN_CHARACTERS_MAX = 16_384
"""Most servers refuse a longer header."""


def meta_of(event: Any) -> dict[str, Any]:
    """Return the event's `meta`, or {} if it has none."""
    meta: Any = cast("dict[str, Any]", event).get("meta") if isinstance(event, dict) else None
    return cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}


def chain_of(event: Any) -> str:
    """Return the chain for events that this event triggers: its own chain and itself."""
    meta = meta_of(event)
    before: Any = cast("dict[str, Any]", event).get("triggered_by")
    if not isinstance(before, str) or not before:
        before = f"req:{meta['request_id']}" if meta.get("request_id") else ""
    link = f"{meta.get('stream', '')}:{meta.get('uri', '')}"
    chain = f"{before},{link}" if before else link
    if len(chain) > CHAIN_CHARACTERS_MAX:  # the newest links are enough to detect a loop
        chain = chain[-CHAIN_CHARACTERS_MAX:].partition(",")[2]
    return chain


def times_in_chain(event: Any) -> int:
    """Return how often the event's own stream and URI are in its chain.

    Each occurrence is one round of a loop. Links of retries do not count.
    """
    meta = meta_of(event)
    before: Any = cast("dict[str, Any]", event).get("triggered_by")
    if not isinstance(before, str) or not meta.get("stream"):
        return 0
    return before.split(",").count(f"{meta['stream']}:{meta.get('uri', '')}")
