"""The intake fills in fields that are missing and declared by the schema."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import pytest

from eventstreams.intake.enrichment import new_id, time_of
from tests.support.intake import TEST, event, place

pytestmark = pytest.mark.anyio

HTTP: dict[str, Any] = {"$schema": "/test/http/1.0.0", "meta": {"stream": "test.http"}}


def test_ids_are_different_random_uuids() -> None:
    ids = [new_id() for _ in range(1_000)]
    uuids = [UUID(text) for text in ids]
    assert [str(uuid) for uuid in uuids] == ids
    assert all(uuid.version == 4 and uuid.variant == RFC_4122 for uuid in uuids)
    assert len(set(ids)) == len(ids)
    changing = 0
    for uuid in uuids:
        changing |= uuid.int ^ uuids[0].int
    assert changing.bit_count() == 122, "all bits but those of the version and the variant"


def test_a_forked_process_does_not_repeat_ids_of_its_parent() -> None:
    program = """
import os, sys
from eventstreams.intake.enrichment import new_id
new_id()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(new_id(), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    ids = done.stdout.split()
    assert len(set(ids)) == len(ids) == 2


async def test_id_time_and_request_id_are_filled_in(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post([event(), event()], headers={"x-request-id": "r1"})
        one, two = await here.documents()
        assert UUID(one["meta"]["id"]) != UUID(two["meta"]["id"])
        assert one["meta"]["request_id"] == "r1"
        assert datetime.fromisoformat(one["meta"]["dt"]).tzinfo is not None
        assert "dt" not in one, "only the client knows when it happened"
        assert "http" not in one, "the schema has no such field"


async def test_a_request_without_id_gets_one(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post([event(), event()])
        one, two = await here.documents()
        assert UUID(one["meta"]["request_id"]) == UUID(two["meta"]["request_id"])


async def test_existing_fields_are_kept(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        meta = {"stream": TEST, "id": "mine", "dt": "2019-01-01T00:00:00Z", "request_id": "r0"}
        await here.post({**event(), "meta": meta}, headers={"x-request-id": "r1"})
        [stored] = await here.documents()
        assert stored["meta"] == meta


async def test_the_order_of_keys_is_kept(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = {"test_map": {"z": "1", "a": "2"}, "test": "x", **event()}
        await here.post(posted)
        [stored] = await here.documents()
        assert list(stored) == list(posted)
        assert list(stored["test_map"]) == ["z", "a"]


async def test_the_record_has_the_time_of_meta_dt(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        meta = {"stream": TEST, "dt": "2019-01-01T00:00:00Z"}
        await here.post({**event(), "meta": meta})
        [record] = await here.events()
        assert record.timestamp_ms == 1546300800000


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"x-client-ip": "192.0.2.1", "x-forwarded-for": "192.0.2.2"}, "192.0.2.1"),
        ({"x-forwarded-for": "192.0.2.2, 192.0.2.3"}, "192.0.2.3"),
        ({"x-forwarded-for": "192.0.2.2, 127.0.0.3"}, "192.0.2.2"),
        ({}, "127.0.0.1"),
    ],
)
async def test_the_clients_address_is_filled_in(
    tmp_path: Path, headers: dict[str, str], address: str
) -> None:
    async with place(tmp_path) as here:
        await here.post(HTTP, headers=headers)
        [stored] = await here.documents("test.http")
        assert stored["http"]["client_ip"] == address


async def test_the_user_agent_is_added_to_headers_and_truncated(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post(HTTP, headers={"user-agent": "a" * 500})
        [stored] = await here.documents("test.http")
        assert stored["http"]["request_headers"] == {"user-agent": "a" * 400}


async def test_a_stream_determines_its_header_fields(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = {**HTTP, "meta": {"stream": "test.http.own"}}
        await here.post(posted, headers={"user-agent": "mine", "referer": "there"})
        [stored] = await here.documents("test.http.own")
        assert stored["http"]["request_headers"] == {"referer": "there"}


async def test_values_of_other_types_are_not_replaced(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answer = await here.post({**HTTP, "http": "text"})
        assert answer.status_code == 400
        [element] = answer.json()["invalid"]
        assert element["context"]["errorsText"] == "'.http' should be object"


async def test_in_legacy_schemas_dt_is_the_time_of_receipt(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        legacy = {
            "$schema": "/analytics/legacy/thing/1.0.0",
            "meta": {"stream": "eventlogging_Legacy"},
        }
        assert (await here.post(legacy)).status_code == 201
        [stored] = await here.documents("eventlogging_Legacy")
        assert stored["dt"] == stored["meta"]["dt"]


async def test_the_query_can_name_schema_and_stream(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        query = f"?schema_uri=/test/event/1.0.0&stream={TEST}"
        answer = await here.post([{"test": "bare"}], query=query, kind="application/reports+json")
        assert answer.status_code == 201
        [stored] = await here.documents()
        assert stored["$schema"] == "/test/event/1.0.0"
        assert stored["meta"]["stream"] == TEST


async def test_the_event_takes_precedence_over_the_query(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post(event(), query="?schema_uri=/error/2.1.0&stream=eventstreams.error")
        assert len(await here.documents()) == 1


async def test_keys_consist_of_the_streams_key_fields(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = event("enwiki", stream="test.keyed", test_map={"page": "7"})
        assert (await here.post(posted)).status_code == 201
        [record] = await here.events("test.keyed")
        assert record.key == b'{"wiki_id":"enwiki","page_id":"7"}'
        answer = await here.post(event("enwiki", stream="test.keyed"))
        assert answer.status_code == 400
        assert "test_map.page" in answer.json()["invalid"][0]["context"]["errorsText"]


async def test_without_key_fields_a_record_has_no_key(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post(event())
        [record] = await here.events()
        assert record.key is None


async def test_topics_have_the_prefix_of_the_data_centre(tmp_path: Path) -> None:
    async with place(tmp_path, topic_prefix="codfw.") as here:
        names = ("test.prefixed", "eventlogging_Prefixless", TEST)
        answer = await here.post([event(stream=name) for name in names])
        assert answer.status_code == 201
        assert len(await here.events("codfw.test.prefixed")) == 1
        assert len(await here.events("eventlogging_Prefixless")) == 1
        assert len(await here.events(TEST)) == 1


async def test_without_a_prefix_the_first_topic_is_used(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post(event(stream="test.prefixed"))
        assert len(await here.events("eqiad.test.prefixed")) == 1


@pytest.mark.parametrize(
    ("dt", "timestamp_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1969-12-31T23:59:59Z", None),
        ("soon", None),
        (7, None),
    ],
)
def test_records_have_the_events_time_if_possible(dt: object, timestamp_ms: int | None) -> None:
    assert time_of({"meta": {"dt": dt}}) == timestamp_ms
