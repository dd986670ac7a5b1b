"""Posts canary events: regular test events which show that a stream still accepts events.

As in Wikimedia's event-utilities, a canary event is the first example of the stream's newest schema
with `meta.domain` set to "canary". It passes through the same intake as all other events.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable
from typing import Any, cast

from eventstreams.errors import SchemaError
from eventstreams.intake.document import write
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.intake import Intake
from eventstreams.metrics import Metrics
from eventstreams.model.stream_config import StreamConfig, StreamConfigs
from eventstreams.schemas.store import SchemaStore

_log = logging.getLogger(__name__)

DOMAIN = "canary"
_HEADERS = {"user-agent": "eventstreams canary"}
_SENDER = Sender(header=_HEADERS.get, client_ip=None, site=DOMAIN)


class Canary:
    def __init__(
        self,
        *,
        intake: Intake,
        configs: Callable[[], StreamConfigs],
        schemas: SchemaStore,
        every_s: float | None,
        metrics: Metrics,
    ) -> None:
        self._intake = intake
        self._configs = configs
        self._schemas = schemas
        self._every_s = every_s
        self._metrics = metrics

    async def run(self) -> None:
        """Post canary events at once and then every `every_s` seconds, until cancelled."""
        while self._every_s is not None:
            await self.round()
            await asyncio.sleep(self._every_s)

    async def round(self) -> None:
        """Post one event to each stream that enables canary events. Failures are logged and
        counted."""
        for stream in self._configs().canaries():
            problem = await self._post(stream)
            outcome = "accepted" if problem is None else "failed"
            self._metrics.canary_events.labels(stream.label, outcome).inc()
            if problem is not None:
                _log.error("cannot post a canary event: %s", problem, extra={"stream": stream.name})

    async def _post(self, stream: StreamConfig) -> str | None:
        """Post one canary event. Return a description of the problem, or None on success."""
        if stream.schema_title is None:
            return "the stream has no schema_title setting"
        try:
            schema = await self._schemas.latest(stream.schema_title)
        except SchemaError as error:
            return str(error)
        examples: Any = schema.schema.document.get("examples")
        if not examples or not isinstance(examples[0], dict):
            return f"schema {schema.schema.uri} has no example"
        event = canary_of(cast("dict[str, Any]", examples[0]), stream.name)
        report = await self._intake.take([write(event)], _SENDER)
        return report.rejections[0].message if report.rejections else None


def canary_of(example: dict[str, Any], stream: str) -> dict[str, Any]:
    """Return a copy of `example` addressed to `stream`, without the fields that differ in each
    event."""
    event = copy.deepcopy(example)
    example_meta: Any = event.get("meta")
    meta = cast("dict[str, Any]", example_meta) if isinstance(example_meta, dict) else {}
    event["meta"] = meta
    for name in ("id", "dt", "request_id"):
        meta.pop(name, None)
    meta.update(stream=stream, domain=DOMAIN)
    return event
