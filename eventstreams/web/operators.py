"""Serves /v2/admin/: the operators' page, and its live figures as Server-Sent Events.

An EventSource cannot send the operator's key, so the page exchanges the key for a ticket, which
opens `/v2/admin/live` once. The figures are computed every two seconds, once for all open pages.
The states of propagation rules come from the propagation processes that the settings name. Requests
to pause or resume a rule are passed on to them with the operator's key.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

import eventstreams
from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.config.settings import Settings
from eventstreams.errors import GatewayFull, QuotaUnavailable, ServiceProblem, Unauthorized
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.outages import names
from eventstreams.fanout.rates import Activity
from eventstreams.metrics import Metrics, total
from eventstreams.quota.quota import Quota
from eventstreams.web.admin import Admin
from eventstreams.web.open_streams import OpenStreams
from eventstreams.web.query import Query

PATH = "/v2/admin"
_EVERY_S = 2.0
_TICKET_S = 30.0
_PAGES_MAX = 20
"""How many pages of operators may be open at one process."""
_PATIENCE_S = 2.0
"""How long a propagation process may take to answer."""
_RULES_BYTES_MAX = 4 * 2**20
_RETRY_AFTER_S = 5
_NOT_CACHED = {"cache-control": "no-store"}


def figures_of(
    *,
    hub: Hub,
    metrics: Metrics,
    open_streams: OpenStreams,
    catalogue_watcher: CatalogueWatcher,
    settings: Settings,
) -> dict[str, Any]:
    """Return the figures of this process, whose numbers can be added to those of others.

    `streams` has the clients of each stream and its events in the newest complete step of
    `Activity.STEP_S` seconds. Counters are totals since the process began.
    """
    clients = open_streams.clients_by_stream()
    waiting = total(metrics.catch_up_waiting)
    return {
        "log": "ok" if hub.trouble is None else str(hub.trouble),
        "unreachable": names(hub.unreachable),
        "draining": hub.leaving,
        "numbers": {
            "clients": total(metrics.clients),
            "cohorts": total(metrics.cohorts),
            "catching_up": total(metrics.catching_up),
            "catch_up_waiting": waiting,
            "lag": total(metrics.partition_lag),
            "events_in": total(metrics.events_in),
            "events_out": total(metrics.events_out),
            "posted": total(metrics.intake_events),
            "refused": total(metrics.refused),
            "gaps": total(metrics.gaps),
            "slow": total(metrics.slow),
            "tail_bytes": total(metrics.tail_bytes),
            "tail_bytes_max": settings.fanout.tail_bytes_max,
            "intake_bytes": total(metrics.intake_bytes),
            "intake_bytes_max": settings.intake.in_flight_bytes_max,
            "catch_up_slots": settings.fanout.catch_up_slots,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
        "streams": {
            name: {
                "clients": clients[name],
                "events": (hub.activity.counts(stream.topics) or [0])[-1],
            }
            for name, stream in catalogue_watcher.catalogue.streams.items()
        },
        "relays": metrics.relay_figures(),
    }


class Operators:
    def __init__(
        self,
        *,
        admin: Admin,
        hub: Hub,
        quota: Quota,
        streams_max: Callable[[], int | None],
        propagation: Sequence[str],
        pages: Path,
    ) -> None:
        """`propagation` has the addresses of propagation processes, `pages` the HTML files."""
        self._admin = admin
        self._hub = hub
        self._quota = quota
        self._streams_max = streams_max
        self._propagation = [url.rstrip("/") for url in propagation]
        self._folder = pages
        self._pages = 0
        self._made = (float("-inf"), "")
        self._making = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self._get_page),
            Route(f"{PATH}/ticket", self._issue, methods=["POST"]),
            Route(f"{PATH}/live", self._live, methods=["GET"]),
            Route(f"{PATH}/propagation/{{at:int}}/{{command}}", self._command, methods=["POST"]),
        ]

    async def _get_page(self, _: Request) -> Response:
        """Respond with the page, which contains no secrets and prompts for the key.

        Without a key in the policy, respond with 404 and a page that says how to set one.
        """
        name, status = ("admin.html", 200) if self._admin.has_key() else ("no-admin.html", 404)
        return FileResponse(self._folder / name, status, headers=_NOT_CACHED)

    async def _issue(self, request: Request) -> Response:
        self._admin.authorise(request.scope)
        ticket = secrets.token_urlsafe(32)
        try:
            await self._quota.put(_note(ticket), b"operator", _TICKET_S)
        except QuotaUnavailable as error:
            raise GatewayFull(f"Tickets cannot be stored: {error}", _RETRY_AFTER_S) from error
        body = orjson.dumps({"ticket": ticket, "expires_in": _TICKET_S})
        return Response(body, 201, _NOT_CACHED, "application/json")

    async def _live(self, request: Request) -> Response:
        """Respond with the figures, as an event in each `_EVERY_S` seconds, until a drain."""
        await self._authorise(request)
        if self._pages >= _PAGES_MAX:
            raise GatewayFull(f"{_PAGES_MAX} pages of operators are open", _RETRY_AFTER_S)
        headers = {**_NOT_CACHED, "x-accel-buffering": "no"}
        return EventSourceResponse(self._events(), ping=0, headers=headers)

    async def _authorise(self, request: Request) -> None:
        """Accept the key or a ticket. Raises as `Admin.authorise`, and GatewayFull."""
        ticket = Query(request.scope).one("ticket")
        if ticket is None:
            self._admin.authorise(request.scope)
            return
        self._admin.key()
        try:
            found = await self._quota.pop(_note(ticket))
        except QuotaUnavailable as error:
            raise GatewayFull(f"Tickets cannot be checked: {error}", _RETRY_AFTER_S) from error
        if found is None:
            raise Unauthorized("The ticket is unknown, expired or used: request another one")

    async def _events(self) -> AsyncGenerator[ServerSentEvent]:
        self._pages += 1
        try:
            while not self._hub.leaving:
                yield ServerSentEvent(await self._snapshot(), event="figures", sep="\n")
                await asyncio.sleep(_EVERY_S)
        finally:
            self._pages -= 1

    async def _snapshot(self) -> str:
        """Return the figures of all workers as JSON, which every open page shares."""
        async with self._making:
            made, text = self._made
            if time.monotonic() - made >= _EVERY_S / 2:
                text = orjson.dumps(await self._figures()).decode()
                self._made = (time.monotonic(), text)
            return text

    async def _figures(self) -> dict[str, Any]:
        rules = [asyncio.to_thread(_state_of, url) for url in self._propagation]
        propagation = await asyncio.gather(*rules)
        try:
            workers, missing = await self._admin.all_figures()
        except GatewayFull as error:
            return {"problem": str(error), "propagation": propagation}
        most = self._streams_max()
        used = None if most is None else (await self._quota.usage("*")).held
        return {
            "version": eventstreams.__version__,
            "time": time.time(),
            "step_s": Activity.STEP_S,
            "workers": workers,
            "workers_missing": missing,
            "streams_limit": {"max": most, "used": used},
            "propagation": propagation,
        }

    async def _command(self, request: Request) -> Response:
        """Pause or resume a rule of a propagation process, which the query names."""
        self._admin.authorise(request.scope)
        at, command = request.path_params["at"], request.path_params["command"]
        rule = Query(request.scope).one("rule")
        if at >= len(self._propagation) or command not in ("pause", "resume"):
            raise HTTPException(404)
        if rule is None:
            raise ServiceProblem("Name the rule: ?rule=NAME")
        url = f"{self._propagation[at]}/v2/propagation/{quote(rule, safe='')}/{command}"
        try:
            answer = await asyncio.to_thread(_ask, "POST", url, self._admin.key().decode())
        except httpx.HTTPError as error:
            raise GatewayFull(f"{url} does not answer: {error}", _RETRY_AFTER_S) from error
        body = answer.content[:_RULES_BYTES_MAX]
        return Response(body, answer.status_code, _NOT_CACHED, "application/json")


def _note(ticket: str) -> str:
    return f"operator {ticket}"


def _ask(method: str, url: str, key: str | None = None) -> httpx.Response:
    """Send a request to a propagation process. Call it in a thread: a client takes milliseconds."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with httpx.Client(timeout=_PATIENCE_S, trust_env=False) as client:
        return client.request(method, url, headers=headers)


def _state_of(url: str) -> dict[str, Any]:
    """Return the rules of one propagation process, or its problem."""
    try:
        answer = _ask("GET", f"{url}/v2/propagation").raise_for_status()
        state: dict[str, Any] = orjson.loads(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        return {"url": url, "problem": str(error) or type(error).__name__, "rules": []}
    fields = ("name", "paused", "trouble", "running", "ready", "waiting", "lag")
    rules = [{field: rule.get(field) for field in fields} for rule in state["rules"]]
    return {"url": url, "problem": None, "rules": rules}
