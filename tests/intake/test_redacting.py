"""Redacted fields cannot be received or queried over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstreams.log.sqlite.log import SqliteLog
from tests.support.intake import ERRORS, Place, place
from tests.support.sqlite_files import write_lock

pytestmark = pytest.mark.anyio

STREAM = "pages"
SECRET = "S3CRET"
RULE = {
    "domain": "a.org",
    "titles": ["Redact this"],
    "title_fields": ["test"],
    "remove": ["test_map"],
}


def streams(*rules: Any) -> dict[str, Any]:
    return {
        STREAM: {"schema_title": "test/event", "redact": list(rules)},
        ERRORS: {"schema_title": "error"},
    }


def page(title: str, domain: str = "a.org") -> dict[str, Any]:
    meta = {"stream": STREAM, "domain": domain}
    return {
        "$schema": "/test/event/1.0.0",
        "meta": meta,
        "test": title,
        "test_map": {"user": SECRET},
    }


async def seen(here: Place, query: str, count: int, accept: str = "text/event-stream") -> list[Any]:
    target = f"/v2/stream/{STREAM}?{query}"
    async with here.served.opened(target, {"Accept": accept}) as stream:
        return await stream.documents(count)


def users(documents: list[Any]) -> list[bool]:
    return ["test_map" in document for document in documents]


async def test_live_history_and_filters_are_redacted_alike(tmp_path: Path) -> None:
    async with place(tmp_path, streams=streams(RULE)) as here:
        async with here.served.stream(STREAM) as live:
            sent = [page("redact_this"), page("other"), page("REDACT THIS"), page("x", "b.org")]
            assert (await here.post(sent)).status_code == 201
            assert users(await live.documents(4)) == [False, True, False, True]
        assert users(await seen(here, "since=earliest", 4)) == [False, True, False, True]
        filtered = "since=earliest&filter=event.test_map.user%20%3D%3D%20%22S3CRET%22"
        assert [d["test"] for d in await seen(here, filtered, 2)] == ["other", "x"]
        assert await seen(here, "since=earliest&fields=test_map.user&limit=1", 1) == [{}]


async def test_a_redaction_rule_covers_earlier_events_even_while_the_log_cannot_be_written(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, streams=streams(), catalogue_refresh_s=0.02) as here:
        assert isinstance(here.log, SqliteLog)
        directory = here.log._directory
        assert (await here.post([page("Redact this"), page("other")])).status_code == 201
        for query in ("since=earliest", "since=earliest&filter=has(event.test_map)"):
            assert users(await seen(here, query, 2)) == [True, True]
        async with here.served.stream(STREAM) as open_stream:
            new = yaml.safe_dump({"streams": streams(RULE)})
            (tmp_path / "new").write_text(new)
            os.replace(tmp_path / "new", tmp_path / "streams.yaml")
            async with write_lock(directory):  # the log cannot create topics
                await here.served.until("catalogue_reloads_total", 1, outcome="taken")
                assert users(await seen(here, "since=earliest", 2)) == [False, True]
            [left] = await seen(here, "since=earliest&filter=has(event.test_map)", 1)
            assert left["test"] == "other"
            assert (await here.post(page("redact_this"))).status_code == 201
            assert users(await open_stream.documents(1)) == [False]


async def test_an_invalid_redaction_rule_is_refused(tmp_path: Path) -> None:
    wrong = {"domain": "a.org", "titles": ["x"]}
    with pytest.raises(Exception, match=r"streams\.pages\.redact\[0\]: remove is missing"):
        async with place(tmp_path, streams=streams(wrong)):
            pass
