"""Serves /v2/admin/clients, with which operators list the open streams and close single ones.

It also collects the figures of all workers for the operators' page (`operators.py`).

The worker that receives a request queries the other workers of its host, but no other hosts.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from eventstreams.access.policy import Policy
from eventstreams.errors import (
    GatewayFull,
    InvalidToken,
    QuotaUnavailable,
    Unauthorized,
)
from eventstreams.quota.workers import QuotaClient
from eventstreams.web.access import bearer
from eventstreams.web.open_streams import OpenStreams
from eventstreams.web.query import Query

PATH = "/v2/admin/clients"
_LIMIT = 1000
_LIMIT_MAX = 10_000
_RETRY_AFTER_S = 5
_SORTS = ("duration_s", "behind", "unsent", "bytes", "events")
_NOT_CACHED = {"cache-control": "no-store"}
_ONLY = ("stream", "client", "state")


class Admin:
    def __init__(
        self,
        *,
        policy: Callable[[], Policy],
        open_streams: OpenStreams,
        quota_client: QuotaClient | None,
        figures: Callable[[], dict[str, Any]],
    ) -> None:
        """`quota_client` reaches the other workers, if there are any. `figures` returns those of
        this process.

        Without a key in the policy, every route here responds with 404.
        """
        self._policy = policy
        self._open_streams = open_streams
        self._quota_client = quota_client
        self._figures = figures
        if quota_client is not None:
            quota_client.answer_with = self._answer

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self._get, methods=["GET"]),
            Route(f"{PATH}/{{id:path}}", self._delete, methods=["DELETE"]),
        ]

    async def _get(self, request: Request) -> Response:
        self.authorise(request.scope)
        listed = await self._list(request.scope)
        body = orjson.dumps(listed, option=orjson.OPT_INDENT_2) + b"\n"
        return Response(body, headers=_NOT_CACHED, media_type="application/json")

    async def _delete(self, request: Request) -> Response:
        self.authorise(request.scope)
        if not await self._close(request.path_params["id"]):
            raise HTTPException(404)
        return Response(status_code=204, headers=_NOT_CACHED)

    def has_key(self) -> bool:
        return self._policy().admin_key is not None

    def key(self) -> bytes:
        """Return the operator's key. Raises HTTPException if the policy has none."""
        key = self._policy().admin_key
        if key is None:
            raise HTTPException(404)
        return key

    async def all_figures(self) -> tuple[list[dict[str, Any]], int]:
        """Return the figures of each worker, and the number of workers that did not answer.

        Raises GatewayFull.
        """
        return await self._ask_all({"figures": True})

    def authorise(self, scope: Scope) -> None:
        """Raise Unauthorized without the right key; HTTPException if the policy has none."""
        key = self.key()
        given = (bearer(scope) or "").encode("utf-8", "replace")
        if not given:
            raise Unauthorized("Send the operator's key: Authorization: Bearer KEY")
        if not hmac.compare_digest(given, key):
            raise InvalidToken("This is not the operator's key")

    async def _list(self, scope: Scope) -> dict[str, Any]:
        question = _question(Query(scope))
        answers, missing = await self._ask_all(question)
        clients = [client for each in answers for client in each["clients"]]
        clients.sort(key=itemgetter(question["sort"]), reverse=True)
        return {
            "total": sum(each["total"] for each in answers),
            "workers": len(answers),
            "workers_missing": missing,
            "clients": clients[: question["limit"]],
        }

    async def _close(self, id_: str) -> bool:
        answers, missing = await self._ask_all({"close": id_})
        if not any(answers) and missing:
            raise GatewayFull(f"{missing} workers do not respond", _RETRY_AFTER_S)
        return any(answers)

    async def _ask_all(self, question: dict[str, Any]) -> tuple[list[Any], int]:
        mine = await self._answer(question)
        if self._quota_client is None:
            return [mine], 0
        try:
            others, missing = await self._quota_client.ask_others(question)
        except QuotaUnavailable as error:
            raise GatewayFull(
                f"The other workers are unreachable: {error}", _RETRY_AFTER_S
            ) from error
        return [mine, *others], missing

    async def _answer(self, question: Mapping[str, Any]) -> Any:
        """Answer for this process alone."""
        if "close" in question:
            process, _, number = question["close"].partition("-")
            mine = process == str(os.getpid()) and number.isascii() and number.isdigit()
            return mine and self._open_streams.close(int(number[:20]))
        if "figures" in question:
            return self._figures()
        found: list[dict[str, Any]] = []
        only: dict[str, str] = question["only"]
        async for number, document in self._open_streams.documents():
            if _matches(document, only):
                found.append({"id": f"{os.getpid()}-{number}", **document})
        for document in found:
            document["unsent"] = document["unsent"] or 0
        found.sort(key=itemgetter(question["sort"]), reverse=True)
        return {"total": len(found), "clients": found[: question["limit"]]}


def _matches(document: Mapping[str, Any], only: Mapping[str, str]) -> bool:
    return all(
        value in document["streams"] if name == "stream" else document[name] == value
        for name, value in only.items()
    )


def _question(query: Query) -> dict[str, Any]:
    """Return the question for all workers. Raises InvalidParameter."""
    query.expect((*_ONLY, "sort", "limit"))
    limit = query.whole("limit", "clients", least=0, digits_max=5)
    return {
        "only": {name: value for name in _ONLY if (value := query.one(name)) is not None},
        "sort": query.choice("sort", *_SORTS) or _SORTS[0],
        "limit": min(_LIMIT if limit is None else limit, _LIMIT_MAX),
    }
