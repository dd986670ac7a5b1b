"""Simulates MediaWiki's EventBus: its events, and how it interprets responses."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx

from tests.support.intake import SHIPPED, Place

CREATE = "mediawiki.page-create"


CHANGE = "mediawiki.recentchange"


STREAMS = {
    CREATE: {"schema_title": "mediawiki/revision/create", "topic_prefixes": ["eqiad.", "codfw."]},
    CHANGE: {"schema_title": "mediawiki/recentchange", "topic_prefixes": ["eqiad.", "codfw."]},
    "eventstreams.error": {"schema_title": "error"},
}


def example(title: str) -> dict[str, Any]:
    [newest] = sorted((SHIPPED / title).glob("latest.json"))
    document = json.loads(newest.read_text())
    return {**document["examples"][0], "$schema": document["$id"]}


def built(title: str, stream: str) -> dict[str, Any]:
    """Return an event like EventFactory's: with id, request id, domain and URI, but no meta.dt."""
    event = {**example(title), "comment": "Ünïcode / \u2028 and \\ more"}
    event["meta"] = {
        "uri": "https://test.wikipedia.org/wiki/%C3%9Cn%C3%AFcode",
        "request_id": str(uuid4()),
        "id": str(uuid4()),
        "domain": "test.wikipedia.org",
        "stream": stream,
    }
    return event


def recent_change() -> dict[str, Any]:
    return built("mediawiki/recentchange", CHANGE)


class EventBus:
    """Its `send`: one POST of a list; 207 and from 300 on is failure; the events that failed are
    those in the lists of the body."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.failed: list[dict[str, Any]] = []
        self.answer: httpx.Response

    async def send(self, events: list[dict[str, Any]]) -> bool:
        # like PHP's json_encode with FormatJson::ALL_OK: slashes and letters are not escaped
        body = json.dumps(events, ensure_ascii=False, separators=(",", ":")).encode()
        self.answer = answer = await self.here.http.post(
            "/v1/events",
            content=body,
            headers={
                "content-type": "application/json",
                "user-agent": "MediaWiki/1.46.0-alpha",
                "x-request-id": "7e1d40fe-7a21-4a4b-a6a5-4e6d0e3b2f10",
                "x-client-ip": "192.0.2.44",
            },
        )
        if answer.status_code != 207 and answer.status_code < 300:
            return True
        reported = answer.json()
        self.failed = [element["event"] for kind in reported for element in reported[kind]]
        return False
