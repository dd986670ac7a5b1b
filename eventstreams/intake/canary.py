"""Canary events: proof, for each stream that asks for it, that events can pass.

After event-utilities: the first example of the stream's newest schema, with `meta.domain` "canary",
through the same intake as all others.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable
from typing import Any, cast

from eventstreams.errors import SchemaError
from eventstreams.intake.document import write
from eventstreams.intake.filling import Sender
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
        """Until cancelled: a round at once, then one every `every_s`."""
        while self._every_s is not None:
            await self.round()
            await asyncio.sleep(self._every_s)

    async def round(self) -> None:
        """One event for each stream that asks for it. What fails is logged and counted."""
        for stream in self._configs().canaries():
            problem = await self._post(stream)
            outcome = "accepted" if problem is None else "failed"
            self._metrics.canary_events.labels(stream.label, outcome).inc()
            if problem is not None:
                _log.error("no canary event: %s", problem, extra={"stream": stream.name})

    async def _post(self, stream: StreamConfig) -> str | None:
        """What went wrong, if anything."""
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
    """Its id and its time of receiving are new each time."""
    event = copy.deepcopy(example)
    example_meta: Any = event.get("meta")
    meta = cast("dict[str, Any]", example_meta) if isinstance(example_meta, dict) else {}
    event["meta"] = meta
    for name in ("id", "dt", "request_id"):
        meta.pop(name, None)
    meta.update(stream=stream, domain=DOMAIN)
    return event
