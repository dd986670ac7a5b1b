"""Serves GET /v2/streams/activity: the time of each public stream's last event, and recent counts.

This process has counted the events since it began to follow the log. Streams that need a token are
left out, because only their readers may see how busy they are.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.rates import Activity
from eventstreams.model.timestamp import iso_of

PATH = "/v2/streams/activity"
_FRESH_S = 1.0
"""How long a body is reused, in seconds. Building one takes milliseconds for a thousand streams."""


class StreamActivity:
    def __init__(self, *, catalogue_watcher: CatalogueWatcher, hub: Hub) -> None:
        self._catalogue_watcher = catalogue_watcher
        self._hub = hub
        self._made = (float("-inf"), b"")

    def routes(self) -> list[Route]:
        return [Route(PATH, self.get)]

    async def get(self, _: Request) -> Response:
        now = time.monotonic()
        made, body = self._made
        if now - made >= _FRESH_S:
            body = orjson.dumps(self._document())
            self._made = (now, body)
        return Response(body, media_type="application/json")

    def _document(self) -> dict[str, Any]:
        hub = self._hub
        return {
            "step_seconds": Activity.STEP_S,
            "streams": {
                name: {
                    "newest": iso_of(hub.newest_ms(stream.topics)),
                    "events": hub.activity.counts(stream.topics),
                }
                for name, stream in self._catalogue_watcher.catalogue.streams.items()
                if stream.scope is None
            },
        }
