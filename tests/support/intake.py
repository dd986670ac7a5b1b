"""Runs a gateway with an intake, over a log that the test reads."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import (
    AccessSettings,
    FanoutSettings,
    HttpSettings,
    IntakeSettings,
    LegacySettings,
    LimitSettings,
    Settings,
)
from eventstreams.gateway import Gateway
from eventstreams.log.base import Log
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Event, Partition
from eventstreams.web.app import App
from tests.support.backends import Backend, Sqlite
from tests.support.gateway import Served, run_gateway, settings_of, site_of
from tests.support.waiting import PATIENCE_S

SHIPPED = Path(__file__).parents[2] / "config" / "schemas"
TEST = "eventstreams.test"
ERRORS = "eventstreams.error"

STREAMS: dict[str, Any] = {
    TEST: {"schema_title": "test/event"},
    ERRORS: {"schema_title": "error"},
    "test.keyed": {
        "schema_title": "test/event",
        "message_key_fields": {"wiki_id": "test", "page_id": "test_map.page"},
    },
    "test.prefixed": {"schema_title": "test/event", "topic_prefixes": ["eqiad.", "codfw."]},
    "eventlogging_Prefixless": {
        "schema_title": "test/event",
        "topics": ["eventlogging_Prefixless"],
    },
    "test.untitled": {},
    "/^test\\.regex\\..+/": {"schema_title": "test/event"},
    "test.http": {"schema_title": "test/http"},
    "test.http.own": {
        "schema_title": "test/http",
        "producers": {
            "eventgate": {
                "enrich_fields_from_http_headers": {
                    "http.request_headers.user-agent": False,
                    "http.request_headers.referer": "referer",
                }
            }
        },
    },
    "eventlogging_Legacy": {"schema_title": "analytics/legacy/thing"},
    "test.draft4": {"schema_title": "test/draft4"},
    "test.numbers": {"schema_title": "test/numbers"},
}
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loading the system's certificates, which plain HTTP does not need, would take most of the time in
which a gateway starts."""
_META = {
    "type": "object",
    "properties": {
        "stream": {"type": "string"},
        "id": {"type": "string"},
        "dt": {"type": "string", "format": "date-time", "maxLength": 128},
        "request_id": {"type": "string"},
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "test/http/1.0.0": {
        "meta": _META,
        "http": {
            "type": "object",
            "properties": {
                "client_ip": {"type": "string"},
                "request_headers": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                },
            },
        },
    },
    "analytics/legacy/thing/1.0.0": {"meta": _META, "dt": {"type": "string"}},
    "test/draft4/1.0.0": {"meta": _META, "count": {"type": "integer"}},
    "test/numbers/1.0.0": {"meta": _META, "number": {"type": "number"}, "any": {}},
}


def write_schemas(folder: Path) -> None:
    for uri, properties in SCHEMAS.items():
        draft = "draft-04" if "draft4" in uri else "draft-07"
        document = {
            "title": uri.rpartition("/")[0],
            "$id": f"/{uri}",
            "$schema": f"http://json-schema.org/{draft}/schema#",
            "type": "object",
            "required": ["$schema"],
            "properties": {"$schema": {"type": "string"}, **properties},
        }
        if draft == "draft-04":
            del document["$id"]
        path = folder / f"{uri}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document))


class Place:
    """A gateway to which the test posts events."""

    def __init__(self, served: Served, log: Log, http: httpx.AsyncClient) -> None:
        self.served = served
        self.log = log
        self.http = http

    @property
    def parts(self) -> Gateway:
        return self.served.parts

    async def post(
        self,
        body: Any,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        kind: str | None = "application/json",
    ) -> httpx.Response:
        """Post a body: bytes unchanged, everything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers or {})
        if kind is not None:
            sent["content-type"] = kind
        return await self.http.post(f"/v1/events{query}", content=content, headers=sent)

    async def events(self, topic: str = TEST) -> list[Event]:
        """Return all events of a topic, in order."""
        partition = Partition(topic, 0)
        found: list[Event] = []
        if topic not in await self.log.partitions([topic]):
            return found
        bounds = (await self.log.bounds([partition]))[partition]
        at = bounds.oldest
        while at < bounds.end:
            slice_ = await self.log.read(partition, at, 2**20)
            found += slice_.events
            at = slice_.next
        return found

    async def documents(self, topic: str = TEST) -> list[Any]:
        return [json.loads(event.value or b"null") for event in await self.events(topic)]

    async def errors(self, count: int) -> list[Any]:
        """Wait for `count` error events, which are made after the answers, and return them."""
        await self.served.until("intake_error_events_total", count, outcome="made")
        return await self.documents(ERRORS)


def _prepare(folder: Path, streams: Mapping[str, Any]) -> Catalogue:
    write_schemas(folder / "schemas")
    path = folder / "streams.yaml"
    path.write_text(yaml.safe_dump({"streams": dict(streams)}, sort_keys=False))
    return load_catalogue(path)


@asynccontextmanager
async def place(
    folder: Path,
    *,
    kind: type[Backend] = Sqlite,
    streams: Mapping[str, Any] | None = None,
    catalogue_refresh_s: float = 3600.0,
    access: AccessSettings | None = None,
    http: HttpSettings | None = None,
    fanout: FanoutSettings | None = None,
    limits: LimitSettings | None = None,
    legacy: LegacySettings | None = None,
    wrap: Callable[[App], App] = lambda app: app,
    connections: Mapping[str, float] | None = None,
    **intake: Any,
) -> AsyncIterator[Place]:
    """Run a gateway with an intake.

    `intake` are settings of the intake. The streams are STREAMS by default. Their catalogue is
    `streams.yaml` in the folder. `wrap` and `connections` are arguments of `run_gateway`.
    """
    catalogue = await asyncio.to_thread(_prepare, folder, streams or STREAMS)
    async with site_of(kind) as site:
        if kind is not Sqlite:
            for topic in sorted(catalogue.topics):
                await site.log.create_topic(topic, 1)
        settings = Settings(
            log=settings_of(site.backend),
            http=http or HttpSettings(),
            fanout=fanout or FanoutSettings(),
            limits=limits or LimitSettings(),
            catalogue_refresh_s=catalogue_refresh_s,
            schemas=(str(SHIPPED), str(folder / "schemas")),
            access=access or AccessSettings(),
            intake=IntakeSettings(**{"error_stream": ERRORS, **intake}),
            legacy=legacy or LegacySettings(),
        )
        async with (
            run_gateway(
                settings, catalogue, folder / "streams.yaml", wrap=wrap, **(connections or {})
            ) as served,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{served.port}",
                timeout=PATIENCE_S,
                verify=_NO_AUTHORITIES,
            ) as client,
        ):
            yield Place(served, site.log, client)


def event(test: Any = "specific value", stream: str = TEST, **more: Any) -> dict[str, Any]:
    return {"$schema": "/test/event/1.0.0", "meta": {"stream": stream}, "test": test, **more}
