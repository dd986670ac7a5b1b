"""Carries out actions, in sequence or in parallel, and sends no request to a host that is down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from eventstreams.propagation.actions import Action, Produce, Repost, Request
from eventstreams.propagation.breaker import CircuitBreakers
from eventstreams.propagation.clock import Clock
from eventstreams.propagation.http import NETWORK_FAILURE, HttpClient, TargetRefused
from eventstreams.propagation.job import Job
from eventstreams.propagation.producing import Producing
from eventstreams.propagation.retry import Response
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.trigger import meta_of

_log = logging.getLogger(__name__)

_UNAVAILABLE = 503


class ActionRefused(Exception):
    """The actions cannot be carried out, and a retry would not help.

    `kind` is a machine-readable name of the reason.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Actor:
    """Carries out the actions of one rule."""

    def __init__(
        self,
        *,
        rule: Rule,
        http: HttpClient,
        producing: Producing | None,
        breakers: CircuitBreakers,
        clock: Clock,
    ) -> None:
        """`producing` may be None if no action of the rule produces events."""
        self._rule = rule
        self._http = http
        self._producing = producing
        self._breakers = breakers
        self._clock = clock

    async def all(self, actions: Sequence[Action], job: Job) -> Sequence[Response]:
        """Carry out all actions in parallel, and wait for all, even if one cannot be carried
        out.
        """
        results = await asyncio.gather(
            *(self.one(action, job) for action in actions), return_exceptions=True
        )
        responses: list[Response] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            responses.append(result)
        return responses

    async def one(self, action: Action, job: Job) -> Response:
        """Carry out one action. Raises ActionRefused."""
        match action:
            case Request():
                return await self._request(action)
            case Produce():
                assert self._producing is not None
                request_id = meta_of(job.message).get("request_id")
                return await self._producing.produce(
                    action, request_id if isinstance(request_id, str) else None
                )
            case Repost():
                assert self._producing is not None
                return await self._producing.repost(action)

    async def _request(self, request: Request) -> Response:
        host = request.host
        if not self._breakers.admit(host, self._clock.elapsed_ms()):
            return Response(
                _UNAVAILABLE, body=f"{host} has failed repeatedly, so its circuit is open"
            )
        try:
            response = await self._http.send(request, decode=self._rule.decode_results)
        except TargetRefused as error:
            self._breakers.released(host)
            raise ActionRefused("TargetRefused", str(error)) from error
        except BaseException:
            self._breakers.released(host)
            raise
        if response.status in (NETWORK_FAILURE, 502, _UNAVAILABLE):
            self._breakers.failed(host, self._clock.elapsed_ms())
        else:
            self._breakers.succeeded(host)
        if response.status == 301:
            _log.warning(
                "%s answered 301; permanent redirects are not followed", request.uri[:500],
                extra={"rule": self._rule.name},
            )  # fmt: skip
        return response
