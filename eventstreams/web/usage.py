"""Serves GET /v2/limits: the limits that apply to the requesting client, and how much it uses.

Values are in the units of the settings that set them. Limits that apply to each process, such as
those of posts, are counted for the process that answers.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eventstreams.config.settings import Settings
from eventstreams.filters.cel import LENGTH_MAX
from eventstreams.intake.intake import Intake
from eventstreams.web.address import Proxies, site_of
from eventstreams.web.limits import Limits
from eventstreams.web.query import PARAMETERS_MAX, Query
from eventstreams.web.request import NAMES_MAX

PATH = "/v2/limits"


class Usage:
    def __init__(
        self, *, settings: Settings, limits: Limits, proxies: Proxies, intake: Intake | None
    ) -> None:
        """`intake` is None if this process accepts no events."""
        self._settings = settings
        self._limits = limits
        self._proxies = proxies
        self._intake = intake

    def routes(self) -> list[Route]:
        return [Route(PATH, self._get)]

    async def _get(self, request: Request) -> Response:
        """Respond with the limits. Raises InvalidParameter, MissingClientAddress."""
        Query(request.scope).expect(())
        address = self._proxies.client(request.scope)
        document = {
            "client": site_of(address) if address else None,
            "requests": {
                "head_bytes_max": self._settings.limits.head_bytes_max,
                "parameters_max": PARAMETERS_MAX,
            },
            "streams": await self._streams(address),
            "posts": self._posts(self._proxies.site(request.scope)),
        }
        return Response(
            orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n",
            headers={"cache-control": "no-store"},
            media_type="application/json",
        )

    async def _streams(self, address: str | None) -> dict[str, Any] | None:
        fanout = self._settings.fanout
        if self._settings.only == "intake":
            return None
        return {
            **await self._limits.usage(address),
            "names_max": NAMES_MAX,
            "heartbeat_s": fanout.heartbeat_s,
            "stall_timeout_s": fanout.stall_timeout_s,
            "filter": {
                "characters_max": LENGTH_MAX,
                "processor_share_max": fanout.filter_share,
                "patience_s": fanout.filter_patience_s,
            },
        }

    def _posts(self, site: str) -> dict[str, Any] | None:
        if self._intake is None:
            return None
        settings = self._settings.intake
        bodies, bytes_ = self._intake.admission.used(site)
        return {
            "bodies": {"max": settings.client_bodies_max, "used": bodies},
            "bytes": {"max": settings.client_in_flight_bytes_max, "used": bytes_},
            "body_bytes_max": settings.body_bytes_max,
            "body_timeout_s": settings.body_timeout_s,
            "body_bytes_per_s_min": settings.body_bytes_per_s_min,
            "events_max": settings.events_max,
            "event_bytes_max": settings.event_bytes_max,
            "event_values_max": settings.event_values_max,
            "depth_max": settings.depth_max,
        }
