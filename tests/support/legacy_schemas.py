"""Schemas and streams of EventLogging, for tests of its clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eventstreams.config.settings import LegacySettings
from tests.support.intake import STREAMS

LISTED = LegacySettings(schemas={"MediaWikiPingback": "1.0.0", "Test": "1.2.0"})
TEST = "eventlogging_Test"
PINGBACK = "eventlogging_MediaWikiPingback"
LEGACY_STREAMS: dict[str, Any] = {
    **STREAMS,
    TEST: {"schema_title": "analytics/legacy/test", "topics": [TEST]},
    PINGBACK: {"schema_title": "analytics/legacy/mediawikipingback", "topics": [PINGBACK]},
}
CAPSULE: dict[str, Any] = {
    "$schema": {"type": "string"},
    "meta": {
        "type": "object",
        "required": ["stream"],
        "properties": {
            "stream": {"type": "string"},
            "id": {"type": "string"},
            "dt": {"type": "string", "format": "date-time", "maxLength": 128},
            "request_id": {"type": "string"},
        },
    },
    "dt": {"type": "string", "format": "date-time", "maxLength": 128},
    "client_dt": {"type": "string", "format": "date-time", "maxLength": 128},
    "schema": {"type": "string"},
    "revision": {"type": "integer"},
    "wiki": {"type": "string"},
    "webHost": {"type": "string"},
    "recvFrom": {"type": "string"},
    "seqId": {"type": "integer"},
    "ip": {"type": "string"},
    "uuid": {"type": "string", "maxLength": 128},
    "http": {
        "type": "object",
        "properties": {
            "client_ip": {"type": "string"},
            "request_headers": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
}
_EVENTS: dict[str, Any] = {
    "test/1.2.0": {
        "type": "object",
        "required": ["OtherMessage"],
        "properties": {"OtherMessage": {"type": "string"}},
    },
    "mediawikipingback/1.0.0": {
        "type": "object",
        "required": ["database", "MediaWiki", "PHP", "OS", "arch", "machine"],
        "properties": {
            "arch": {"type": "integer", "enum": [32, 64]},
            **{
                name: {"type": "string"}
                for name in ("database", "machine", "MediaWiki", "OS", "PHP", "serverSoftware")
            },
        },
    },
}


def write_legacy_schemas(folder: Path) -> None:
    """Write the listed schemas to the folder that `place` uses in a test."""
    for path, event in _EVENTS.items():
        uri = f"analytics/legacy/{path}"
        document = {
            "title": uri.rpartition("/")[0],
            "$id": f"/{uri}",
            "$schema": "https://json-schema.org/draft-07/schema#",
            "type": "object",
            "additionalProperties": False,
            "required": ["$schema", "meta", "event"],
            "properties": {**CAPSULE, "event": event},
        }
        file = folder / "schemas" / f"{uri}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
