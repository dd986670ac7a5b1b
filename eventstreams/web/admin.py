"""/v2/admin/clients: an operator, who has the key, sees what is open and closes one.

Whichever worker of a host is asked asks the others. Other hosts know nothing of it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.errors import Unauthorized
from eventstreams.access.policy import Policy
from eventstreams.errors import ClientError, GatewayFull, InvalidParameter, LedgerUnavailable
from eventstreams.ledger.desk import Line
from eventstreams.metrics import Metrics
from eventstreams.web.access import bearer
from eventstreams.web.answers import Headers, answer, not_found, refuse
from eventstreams.web.open_streams import OpenStreams

PATH = "/v2/admin/clients"
_LIMIT = 1000
_LIMIT_MAX = 10_000
_RETRY_AFTER_S = 5
_SORTS = ("duration_s", "behind", "unsent", "bytes", "events")
_ONLY = ("stream", "client", "state")


class Admin:
    """An ASGI application."""

    def __init__(
        self,
        *,
        policy: Callable[[], Policy],
        open_streams: OpenStreams,
        line: Line | None,
        headers: Headers,
        metrics: Metrics,
    ) -> None:
        """`line`: to the other workers, where there are any. Without a key in the policy nothing
        is here."""
        self._policy = policy
        self._open_streams = open_streams
        self._line = line
        self._headers = [*headers, (b"cache-control", b"no-store")]
        self._metrics = metrics
        if line is not None:
            line.answer_with = self._answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        path, method = scope["path"], scope["method"]
        one = path.removeprefix(PATH).removeprefix("/")
        key = self._policy().admin_key
        if key is None:
            await not_found(scope, send, self._headers)
            return
        try:
            _authorise(scope, key)
            if not one and method in ("GET", "HEAD"):
                body = orjson.dumps(await self._list(scope), option=orjson.OPT_INDENT_2) + b"\n"
                await answer(send, 200, self._headers, body, b"application/json")
            elif one and method == "DELETE" and await self._close(one):
                await answer(send, 204, self._headers, b"", None)
            else:
                await not_found(scope, send, self._headers)
        except ClientError as error:
            self._metrics.refused.labels(type(error).__name__).inc()
            await refuse(scope, send, self._headers, error)

    async def _list(self, scope: Scope) -> dict[str, Any]:
        question = _question(scope["query_string"].decode("latin-1"))
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
            raise GatewayFull(f"{missing} workers do not answer", _RETRY_AFTER_S)
        return any(answers)

    async def _ask_all(self, question: dict[str, Any]) -> tuple[list[Any], int]:
        mine = await self._answer(question)
        if self._line is None:
            return [mine], 0
        try:
            others, missing = await self._line.ask_others(question)
        except LedgerUnavailable as error:
            raise GatewayFull(
                f"The other workers can't be asked: {error}", _RETRY_AFTER_S
            ) from error
        return [mine, *others], missing

    async def _answer(self, question: Mapping[str, Any]) -> Any:
        """For this process alone."""
        if "close" in question:
            process, _, number = question["close"].partition("-")
            mine = process == str(os.getpid()) and number.isascii() and number.isdigit()
            return mine and self._open_streams.close(int(number[:20]))
        found: list[dict[str, Any]] = []
        only: dict[str, str] = question["only"]
        async for number, document in self._open_streams.documents():
            if _matches(document, only):
                found.append({"id": f"{os.getpid()}-{number}", **document})
        for document in found:
            document["unsent"] = document["unsent"] or 0
        found.sort(key=itemgetter(question["sort"]), reverse=True)
        return {"total": len(found), "clients": found[: question["limit"]]}


def _authorise(scope: Scope, key: bytes) -> None:
    """Raises Unauthorized."""
    given = (bearer(scope) or "").encode("utf-8", "replace")
    if not hmac.compare_digest(given, key):
        raise Unauthorized("The operator's key is needed: Authorization: Bearer KEY")


def _matches(document: Mapping[str, Any], only: Mapping[str, str]) -> bool:
    return all(
        value in document["streams"] if name == "stream" else document[name] == value
        for name, value in only.items()
    )


def _question(query: str) -> dict[str, Any]:
    """Raises InvalidParameter."""
    given = parse_qs(query, keep_blank_values=True)
    for name, values in given.items():
        if name not in (*_ONLY, "sort", "limit"):
            raise InvalidParameter(
                f"{name} is not known here: {', '.join((*_ONLY, 'sort', 'limit'))}"
            )
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given more than once")
    sort = given.get("sort", ["duration_s"])[0]
    if sort not in _SORTS:
        raise InvalidParameter(f"sort is not one of {', '.join(_SORTS)}")
    limit = given.get("limit", [str(_LIMIT)])[0]
    if not (limit.isascii() and limit.isdigit() and 0 < len(limit) < 6):
        raise InvalidParameter(f"limit is not a number up to {_LIMIT_MAX}")
    only = {name: given[name][0] for name in _ONLY if name in given}
    return {"only": only, "sort": sort, "limit": min(int(limit), _LIMIT_MAX)}
