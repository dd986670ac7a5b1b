"""The configuration of streams is served at /v1/stream-configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.intake import STREAMS, TEST, Place, place

pytestmark = pytest.mark.anyio
PATH = "/v1/stream-configs"


async def reported(here: Place, rest: str = "") -> Any:
    answer = await here.http.get(PATH + rest)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    return answer.json()


async def test_redacted_fields_are_not_listed(tmp_path: Path) -> None:
    rule = {"domain": "a.org", "titles": ["Hidden"], "remove": ["user"]}
    streams = {**STREAMS, "pages": {"schema_title": "test/event", "redact": [rule]}}
    async with place(tmp_path, streams=streams) as here:
        assert "Hidden" not in str(await reported(here)) + str(await reported(here, "/pages"))


async def test_all_or_named_streams_are_listed(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        everything = await reported(here)
        assert list(everything) == list(STREAMS)
        assert await reported(here, "/") == everything
        assert list(await reported(here, f"/{TEST}|test.keyed|nowhere")) == [TEST, "test.keyed"]
        assert list(await reported(here, f"?streams={TEST}|test.keyed")) == [TEST, "test.keyed"]
        assert await reported(here, "/nowhere") == {}
        one = await reported(here, "/test.prefixed")
        assert one == {"test.prefixed": everything["test.prefixed"]}
        assert one["test.prefixed"]["topics"] == ["eqiad.test.prefixed", "codfw.test.prefixed"]
        own = await reported(here, "/test.regex.x")
        assert own["test.regex.x"]["stream"] == "test.regex.x"
        headers = everything["test.http.own"]["producers"]["eventgate"]
        assert (
            headers["enrich_fields_from_http_headers"]["http.request_headers.user-agent"] is False
        )


async def test_constraints_select_streams(tmp_path: Path) -> None:
    streams = {
        "a": {
            "schema_title": "test/event",
            "canary_events_enabled": True,
            "consumers": {"x": {"y": "1"}},
        },
        "b": {"schema_title": "error"},
    }
    async with place(tmp_path, streams=streams, canary_every_s=None, error_stream=None) as here:
        for constraints, names in (
            ("schema_title=error", ["b"]),
            ("canary_events_enabled=1", ["a"]),
            ("canary_events_enabled=true", []),
            ("consumers[x][y]=1", ["a"]),
            ("consumers[x][y]=1|schema_title=error", []),
        ):
            assert list(await reported(here, f"?constraints={constraints}")) == names
        refused: httpx.Response = await here.http.get(PATH + "?constraints=nonsense")
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("constraints: 'nonsense' is not of the form")
        many = "|".join(map(str, range(251)))
        assert (await here.http.get(f"{PATH}/{many}")).status_code == 400


async def test_invalid_constraints_are_refused(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert (await here.http.post(PATH)).status_code == 404
        assert (await here.http.get(PATH + "/a/b")).status_code == 404
