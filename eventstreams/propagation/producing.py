"""Produces events through the intake, and re-posts events to partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from eventstreams.errors import (
    BadSchemaUri,
    EventStreamsError,
    IntakeFull,
    LogError,
    LogUnavailable,
    SchemaError,
)
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.intake import Intake
from eventstreams.log.base import Log
from eventstreams.model.event import Record
from eventstreams.model.stream_config import StreamConfigs
from eventstreams.propagation.actions import Produce, Repost, to_json
from eventstreams.propagation.retry import Response
from eventstreams.propagation.trigger import meta_of
from eventstreams.schemas.store import SchemaStore

_SITE = "127.0.0.1"
_REFUSED, _UNAVAILABLE, _DONE = 400, 503, 201


class Producing:
    """Responds like a server: 201, 400 for events that are never accepted, 503 if a retry may
    help.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        log: Log,
        schemas: SchemaStore,
        configs: Callable[[], StreamConfigs],
        topic_of: Callable[[str], str],
    ) -> None:
        """`topic_of` returns the topic to which events of a stream are re-posted."""
        self._intake = intake
        self._destination = log
        self._schemas = schemas
        self._configs = configs
        self._topic_of = topic_of

    async def produce(self, action: Produce, request_id: str | None) -> Response:
        """Post the events. Accepted events are durable when this returns."""

        def header(name: str) -> str | None:
            return request_id if name == "x-request-id" else None

        posted = [to_json(await self._completed(event, action.chain)) for event in action.events]
        sender = Sender(header=header, client_ip=None, site=_SITE)
        try:
            report = await self._intake.take(posted, sender)
        except (IntakeFull, EventStreamsError) as error:
            return Response(_UNAVAILABLE, body=f"the events were not accepted: {error}")
        if not report.rejections:
            return Response(_DONE)
        first = report.rejections[0]
        body = f"event {first.index} of {report.count} was not accepted: {first.message}"
        return Response(_UNAVAILABLE if first.is_error else _REFUSED, body=body)

    async def repost(self, action: Repost) -> Response:
        """Append the event to its partition."""
        record = Record(self._topic_of(action.stream), action.event, partition=action.partition)
        [outcome] = await self._destination.offer([record])
        if not isinstance(outcome, LogError):
            return Response(_DONE)
        status = _UNAVAILABLE if isinstance(outcome, LogUnavailable) else _REFUSED
        return Response(status, body=f"the event was not accepted: {outcome}")

    async def _completed(self, event: Mapping[str, Any], chain: str) -> dict[str, Any]:
        """Return the event with the schema of its stream, and `triggered_by` if the schema has
        it.
        """
        document = dict(event)
        stream = meta_of(document).get("stream")
        config = self._configs().get(stream) if isinstance(stream, str) else None
        try:
            if "$schema" not in document and config is not None and config.schema_title:
                latest = await self._schemas.latest(config.schema_title)
                document = {"$schema": str(latest.schema.uri), **document}
            uri = document.get("$schema")
            if isinstance(uri, str) and "triggered_by" not in document:
                schema = (await self._schemas.get(uri)).schema.document
                properties: Any = schema.get("properties")
                if "triggered_by" in cast("dict[str, Any]", properties or {}):
                    document["triggered_by"] = chain
        except (SchemaError, BadSchemaUri):
            pass  # the intake reports what is wrong
        return document
