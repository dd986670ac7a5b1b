"""Whether to send clients here; /healthz only says that the loop turns."""

from __future__ import annotations

from typing import Any

from eventstreams.fanout.hub import Hub
from eventstreams.fanout.outages import names


class Health:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def state(self) -> dict[str, Any]:
        """`ready`, and each condition on its own; `unreachable` names partitions whose streams
        wait or are refused, while others are served."""
        hub = self._hub
        return {
            "ready": hub.ready,
            "log": "ok" if hub.feed.trouble is None else str(hub.feed.trouble),
            "unreachable": names(hub.feed.unreachable),
            "fed": hub.feed.following,
            "draining": hub.leaving,
        }
