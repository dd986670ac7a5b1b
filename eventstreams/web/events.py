"""Serves POST /v1/events, EventGate's protocol, in front of the intake.

A body is read only as far as the limits of the intake have room for it. In compatibility mode the
responses are those of EventGate, even if they report a client's fault as an error of the service.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventstreams.access.policy import Policy
from eventstreams.errors import (
    BadBody,
    BodyTooLarge,
    ClientError,
    InvalidParameter,
    UnsupportedBody,
)
from eventstreams.intake.enrichment import Sender, new_id
from eventstreams.intake.intake import Intake
from eventstreams.intake.outcome import Report, body
from eventstreams.metrics import Metrics
from eventstreams.web.access import bearer
from eventstreams.web.address import Proxies
from eventstreams.web.answers import JSON, not_found, preflight, refusal, set_reason
from eventstreams.web.bodies import Bodies, ClientDisconnected
from eventstreams.web.query import Query
from eventstreams.web.writing import write

PATHS = ("/v1/events", "/v1/events/")
TEST_PATH = "/v1/_test/events"

_REQUEST_ID = "x-request-id"
_EMPTY = "Request body was empty. Must provide JSON encoded events."
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_EVENTGATE_TITLES: dict[type[ClientError], str] = {
    BadBody: "SyntaxError",
    BodyTooLarge: "PayloadTooLargeError",
    UnsupportedBody: "UnsupportedMediaTypeError",
}
"""The names that EventGate's body parser gives these errors, all of which are a 500 there."""


class Events:
    """An ASGI application, because posts are frequent and their responses may be large."""

    def __init__(
        self,
        *,
        intake: Intake,
        proxies: Proxies,
        metrics: Metrics,
        policy: Callable[[], Policy],
        stall_timeout_s: float,
    ) -> None:
        """`policy` returns who may post.

        A client that accepts no bytes of its response for `stall_timeout_s` is disconnected.
        """
        self._policy = policy
        self._stall_timeout_s = stall_timeout_s
        self._bodies = Bodies(intake.settings, intake.turns)
        self._intake = intake
        self._proxies = proxies
        self._metrics = metrics
        self._test_events = [orjson.dumps(event) for event in intake.settings.test_events]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_test = scope["path"] == TEST_PATH and self._test_events and scope["method"] == "GET"
        if is_test:
            await self._counted(scope, receive, send, self._post_test(scope, receive, send))
        elif scope["path"] not in PATHS or scope["method"] not in ("POST", "OPTIONS"):
            await not_found(scope)(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await preflight("POST", "text/html")(scope, receive, send)
        else:
            await self._counted(scope, receive, send, self._post(scope, receive, send))

    async def _counted(
        self, scope: Scope, receive: Receive, send: Send, handling: Awaitable[int]
    ) -> None:
        began = time.monotonic()
        try:
            status = await handling
        except ClientDisconnected:
            status = 499
        except ClientError as error:
            response = self._refusal(scope, error)
            status = response.status_code
            await response(scope, receive, send)
        self._metrics.intake_requests.labels(str(status)).inc()
        self._metrics.intake_seconds.observe(time.monotonic() - began)

    def _refusal(self, scope: Scope, error: ClientError) -> Response:
        response = refusal(scope, error, self._metrics)
        title = _EVENTGATE_TITLES.get(type(error))
        if not self._intake.lenient or title is None:
            return response
        document = orjson.loads(response.body)
        document |= {"status": 500, "type": "internal_error", "title": title}
        return Response(orjson.dumps(document), 500, media_type=JSON)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> int:
        sender, hasty = self._sender(scope), self._is_hasty(scope)
        admission = self._intake.admission
        with contextlib.ExitStack() as until_done:
            self._bodies.refuse_length(scope)
            lease = until_done.enter_context(admission.lease(sender.site))
            until_done.callback(lambda: self._metrics.intake_bytes.set(admission.bytes))
            body = await self._bodies.read(scope, receive, lease, sender.site)
            self._metrics.intake_bytes.set(admission.bytes)
            posted = await self._intake.split(body, sender, lease)
            del body  # the events are copies of its parts
            if not posted:
                set_reason(scope, _EMPTY)
                await Response(status_code=400)(scope, receive, send)
                return 400
            if hasty:
                self._intake.take_later(posted, sender, lease, until_done.pop_all())
                set_reason(scope, f"{len(posted)} events hastily received.")
                await Response(status_code=202)(scope, receive, send)
                return 202
            report = await self._intake.take(posted, sender, lease)
            del posted  # the report holds those that the answer repeats
            return await self._report(scope, receive, send, report)

    def _sender(self, scope: Scope) -> Sender:
        """Return who posts. Raises InvalidToken, RepeatedHeader or InvalidParameter."""
        query = Query(scope)
        if not self._intake.lenient:  # EventGate ignores unknown parameters
            query.expect(("hasty", "schema_uri", "stream"))
        sender = sender_of(scope, self._proxies)._replace(
            schema_uri=query.one("schema_uri"), stream=query.one("stream")
        )
        producers = self._policy().producers
        if producers is None:
            return sender
        return sender._replace(may_post_to=producers.of(bearer(scope)).may_post_to)

    async def _post_test(self, scope: Scope, receive: Receive, send: Send) -> int:
        report = await self._intake.take(self._test_events, self._sender(scope))
        return await self._report(scope, receive, send, report)

    async def _report(self, scope: Scope, receive: Receive, send: Send, report: Report) -> int:
        count, accepted, errors = report.count, report.accepted, report.errors
        rejected = count - accepted
        if not rejected:
            set_reason(scope, f"All {count} out of {count} events were accepted.")
            await Response(status_code=201)(scope, receive, send)
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
        headers = [(b"content-type", JSON.encode())]
        slowest = self._intake.settings.body_bytes_per_s_min
        await write(
            scope, send, status, headers, list(body(report)),
            stall_s=self._stall_timeout_s, bytes_per_s_min=slowest,
        )  # fmt: skip
        return status

    def _is_hasty(self, scope: Scope) -> bool:
        """Return whether the client waits for no result. Raises InvalidParameter."""
        text = Query(scope).one("hasty") or ""
        if not text or self._intake.lenient:
            return bool(text)  # EventGate treats hasty=false as true
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise InvalidParameter(f"hasty={text} is neither true nor false")


def sender_of(scope: Scope, proxies: Proxies) -> Sender:
    """Return the client of a request, from its headers and its connection."""
    peer: tuple[str, int] | None = scope.get("client")
    return Sender(
        header=_Headers(scope).get,
        client_ip=proxies.client(scope) or (peer[0] if peer else None),
        site=proxies.site(scope),
    )


class _Headers:
    """The headers of a request. A request without a request id gets a new one."""

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
