"""Serves the HTTP port of `eventstreams propagate`: the state of its rules, and pausing them.

`/healthz` and `/readyz` are for the service manager, `/metrics` for Prometheus, and
`GET /v2/propagation` for operators. With the operator's key, `POST /v2/propagation/RULE/pause` and
`…/resume` pause and resume one rule.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventstreams.errors import ClientError, LogError
from eventstreams.metrics import Metrics
from eventstreams.propagation.service import Propagation
from eventstreams.web.access import bearer
from eventstreams.web.answers import Headers, refusal, with_headers

PATH = "/v2/propagation"
_JSON = b"application/json"
_HEADERS: Headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class PropagationApp:
    """The ASGI application of the port."""

    def __init__(self, *, service: Propagation, metrics: Metrics, admin_key: bytes | None) -> None:
        """Without an `admin_key`, rules cannot be paused here."""
        self._service = service
        self._metrics = metrics
        self._admin_key = admin_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, body, content_type = await self._answer(scope)
        except ClientError as error:
            response = refusal(scope, error, self._metrics)
        else:
            if not isinstance(body, bytes):
                body = orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"
            response = Response(body, status, media_type=content_type.decode())
        await response(scope, receive, with_headers(send, _HEADERS))

    async def _answer(self, scope: Scope) -> tuple[int, Any, bytes]:
        path, method = scope["path"].rstrip("/"), scope["method"]
        if method in ("GET", "HEAD"):
            match path:
                case "/healthz":
                    return 200, {"healthy": True}, _JSON
                case "/readyz":
                    return self._readiness()
                case "/metrics":
                    await self._service.measure()
                    data, kind = await asyncio.to_thread(self._metrics.exposition)
                    return 200, data, kind.encode()
                case "/v2/propagation":
                    return 200, await self._state(), _JSON
                case _:
                    pass
        elif method == "POST" and path.startswith(f"{PATH}/"):
            return self._command(scope, path.removeprefix(f"{PATH}/"))
        return 404, {"status": 404, "type": "not_found", "detail": f"{method} {path}"}, _JSON

    def _readiness(self) -> tuple[int, Any, bytes]:
        troubles = {
            name: worker.trouble or "not started"
            for name, worker in self._service.workers.items()
            if worker.trouble or not worker.started.is_set()
        }
        return (503 if troubles else 200), {"ready": not troubles, "troubles": troubles}, _JSON

    async def _state(self) -> Any:
        state = self._service.state()
        for rule in state["rules"]:
            try:
                lags = await self._service.workers[rule["name"]].lags()
                rule["lag"] = sum(lags.values())
            except LogError:
                rule["lag"] = None
        return state

    def _command(self, scope: Scope, path: str) -> tuple[int, Any, bytes]:
        name, _, command = path.rpartition("/")
        worker = self._service.workers.get(unquote(name))
        if self._admin_key is None or command not in ("pause", "resume"):
            return 404, {"status": 404, "type": "not_found", "detail": f"POST {path}"}, _JSON
        given = (bearer(scope) or "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._admin_key):
            detail = "Send the operator's key: Authorization: Bearer KEY"
            if given:
                detail = "This is not the operator's key"
            return 401, {"status": 401, "type": "unauthorized", "detail": detail}, _JSON
        if worker is None:
            detail = f"there is no rule {unquote(name)!r}"
            return 404, {"status": 404, "type": "not_found", "detail": detail}, _JSON
        if command == "pause":
            worker.pause()
        else:
            worker.resume()
        return 200, worker.state(), _JSON
