"""POST /v1/events: EventGate's protocol, in front of the intake.

Nothing of a body is kept that there is no room for. In compatibility mode the answers are those
of EventGate, also where they call a client's fault an error of the service.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from eventstreams.access.policy import Policy
from eventstreams.errors import (
    BadBody,
    BodyTooLarge,
    ClientError,
    InvalidParameter,
    ServiceProblem,
    UnsupportedBody,
)
from eventstreams.intake.filling import Sender, new_id
from eventstreams.intake.intake import Intake
from eventstreams.intake.outcome import Report, body
from eventstreams.metrics import Metrics
from eventstreams.web.access import bearer
from eventstreams.web.address import Proxies
from eventstreams.web.answers import Headers, answer, not_found, refuse, set_reason, uri
from eventstreams.web.bodies import Bodies, HungUp
from eventstreams.web.writing import write

PATHS = ("/v1/events", "/v1/events/")
TEST_PATH = "/v1/_test/events"

_METHODS = b"POST"
_JSON = b"application/json; charset=utf-8"
_REQUEST_ID = "x-request-id"
_EMPTY = "Request body was empty. Must provide JSON encoded events."
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_UPSTREAM_TITLES: dict[type[ClientError], str] = {
    BadBody: "SyntaxError",
    BodyTooLarge: "PayloadTooLargeError",
    UnsupportedBody: "UnsupportedMediaTypeError",
}
"""What upstream's body parser calls them; all are 500 there."""


class Events:
    def __init__(
        self,
        *,
        intake: Intake,
        proxies: Proxies,
        metrics: Metrics,
        headers: Headers,
        policy: Callable[[], Policy],
        stall_timeout_s: float,
    ) -> None:
        """`policy` says who may post. A client that takes nothing of its answer for
        `stall_timeout_s` is dropped."""
        self._policy = policy
        self._stall_timeout_s = stall_timeout_s
        self._bodies = Bodies(intake.settings, intake.turns)
        self._intake = intake
        self._proxies = proxies
        self._metrics = metrics
        self._headers = [
            (name, b"POST" if name == b"access-control-allow-methods" else value)
            for name, value in headers
        ]
        self._test_events = [orjson.dumps(event) for event in intake.settings.test_events]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == TEST_PATH and self._test_events and scope["method"] == "GET":
            await self._counted(scope, send, self._post_test(scope, send))
        elif scope["path"] not in PATHS or scope["method"] not in ("POST", "OPTIONS"):
            await not_found(scope, send, self._headers)
        elif scope["method"] == "OPTIONS":
            await self._options(send)
        else:
            await self._counted(scope, send, self._post(scope, receive, send))

    async def _counted(self, scope: Scope, send: Send, handling: Any) -> None:
        began = time.monotonic()
        try:
            status = await handling
        except HungUp:
            status = 499
        except ClientError as error:
            status = await self._refuse(scope, send, error)
        self._metrics.intake_requests.labels(str(status)).inc()
        self._metrics.intake_seconds.observe(time.monotonic() - began)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> int:
        sender, hasty = self._sender(scope), self._is_hasty(scope)
        admission = self._intake.admission
        with contextlib.ExitStack() as until_done:
            self._bodies.refuse_length(scope)
            lease = until_done.enter_context(admission.lease(sender.site))
            until_done.callback(lambda: self._metrics.intake_bytes.set(admission.bytes))
            body = await self._bodies.read(scope, receive, lease, sender.site)
            self._metrics.intake_bytes.set(admission.bytes)
            posted = await self._intake.split(body, sender)
            del body  # the events are copies of its parts
            if not posted:
                set_reason(scope, _EMPTY)
                await answer(send, 400, self._headers, b"", None)
                return 400
            if hasty:
                self._intake.take_later(posted, sender, lease, until_done.pop_all())
                set_reason(scope, f"{len(posted)} events hastily received.")
                await answer(send, 202, self._headers, b"", None)
                return 202
            report = await self._intake.take(posted, sender, lease)
            del posted  # the report holds those that the answer repeats
            return await self._tell(scope, send, report)

    def _sender(self, scope: Scope) -> Sender:
        """Raises InvalidToken, RepeatedHeader."""
        query = _query(scope)
        sender = sender_of(scope, self._proxies)._replace(
            schema_uri=query.get("schema_uri"), stream=query.get("stream")
        )
        producers = self._policy().producers
        if producers is None:
            return sender
        return sender._replace(may_post_to=producers.of(bearer(scope)).may_post_to)

    async def _post_test(self, scope: Scope, send: Send) -> int:
        report = await self._intake.take(self._test_events, self._sender(scope))
        return await self._tell(scope, send, report)

    async def _tell(self, scope: Scope, send: Send, report: Report) -> int:
        count, accepted, errors = report.count, report.accepted, report.errors
        rejected = count - accepted
        if not rejected:
            set_reason(scope, f"All {count} out of {count} events were accepted.")
            await answer(send, 201, self._headers, b"", None)
            return 201
        kinds = f"({rejected - errors} invalid and {errors} errored)."
        if accepted:
            status = 207
            reason = (
                f"{accepted} out of {count} events were accepted, but {rejected} failed {kinds}"
            )
        elif errors:
            status = 500
            reason = f"{rejected} out of {count} events had failures and were not accepted. {kinds}"
        else:
            status = 400
            reason = f"{rejected} out of {count} events were invalid and not accepted."
        set_reason(scope, reason)
        headers = [*self._headers, (b"content-type", _JSON)]
        slowest = self._intake.settings.body_bytes_per_s_min
        await write(
            scope, send, status, headers, list(body(report)),
            stall_s=self._stall_timeout_s, bytes_per_s_min=slowest,
        )  # fmt: skip
        return status

    async def _refuse(self, scope: Scope, send: Send, error: ClientError) -> int:
        self._metrics.refused.labels(type(error).__name__).inc()
        title = _UPSTREAM_TITLES.get(type(error))
        if not self._intake.lenient or title is None:
            await refuse(scope, send, self._headers, error)
            return error.status
        assert isinstance(error, ServiceProblem)
        document = {
            "status": 500,
            "type": "internal_error",
            "title": title,
            "detail": error.detail,
            "method": scope["method"],
            "uri": uri(scope),
        }
        await answer(send, 500, self._headers, orjson.dumps(document), _JSON)
        return 500

    def _is_hasty(self, scope: Scope) -> bool:
        """Raises InvalidParameter."""
        text = _query(scope).get("hasty", "")
        if not text or self._intake.lenient:
            return bool(text)  # upstream takes hasty=false for yes
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise InvalidParameter(f"hasty={text} is neither true nor false")

    async def _options(self, send: Send) -> None:
        headers = [
            *self._headers,
            (b"allow", _METHODS),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", b"86400"),
        ]
        await answer(send, 200, headers, _METHODS, b"text/html; charset=utf-8")


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))


def sender_of(scope: Scope, proxies: Proxies) -> Sender:
    """What the headers and the connection of a request say of its client."""
    peer: tuple[str, int] | None = scope.get("client")
    return Sender(
        header=_Headers(scope).get,
        client_ip=proxies.client(scope) or (peer[0] if peer else None),
        site=proxies.site(scope),
    )


class _Headers:
    """Those of a request. One that names no request id gets one."""

    def __init__(self, scope: Scope) -> None:
        self._raw: dict[bytes, bytes] = dict(scope["headers"])
        self._found: dict[str, str | None] = {}

    def get(self, name: str) -> str | None:
        try:
            return self._found[name]
        except KeyError:
            raw = self._raw.get(name.encode())
        value = None if raw is None else raw.decode("utf-8", "replace")
        if value is None and name == _REQUEST_ID:
            value = new_id()
        self._found[name] = value
        return value
