"""Ids of both forms are explained, and invalid ones refused as by a stream."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import Position
from eventstreams.model.stop_condition import StopCondition
from eventstreams.web.cursor import explain
from tests.support.gateway import Served, Site

pytestmark = pytest.mark.anyio

POSITION = Position(
    (Partition("a", 0), Partition("a", 1), Partition("b", 0)),
    (42, 0, 7),
    (1_769_860_800_123, 0, 10**17),
)
PARTITIONS = [
    {
        "topic": "a",
        "partition": 0,
        "offset": 42,
        "timestamp": 1_769_860_800_123,
        "time": "2026-01-31T12:00:00.123Z",
        "epoch": None,
    },
    {"topic": "a", "partition": 1, "offset": 0, "timestamp": 0, "time": None, "epoch": None},
    {"topic": "b", "partition": 0, "offset": 7, "timestamp": 10**17, "time": None, "epoch": None},
]


async def explained(gateway: Served, id_: str) -> Any:
    answer = await gateway.get(f"/v2/cursor?id={quote(id_, safe='')}")
    assert answer.status == 200
    assert answer.head.get("content-type") == "application/json"
    assert answer.head.get("access-control-allow-origin") == "*"
    return answer.json()


async def test_both_forms_of_an_id_are_explained_alike(embedded: Site) -> None:
    as_json = POSITION.encode_json().decode()
    as_token = (POSITION.encode_token() or b"").decode()
    async with embedded.gateway({"s": ["t"]}) as gateway:
        of_json = await explained(gateway, as_json)
        of_token = await explained(gateway, as_token)
    assert of_json == {
        "form": "json",
        "size_bytes": len(as_json),
        "ends": None,
        "partitions": PARTITIONS,
        "other_form": {"form": "token v1", "size_bytes": len(as_token), "id": as_token},
    }
    assert of_token == {
        "form": "token v1",
        "size_bytes": len(as_token),
        "ends": None,
        "partitions": PARTITIONS,
        "other_form": {"form": "json", "size_bytes": len(as_json), "id": as_json},
    }


async def test_the_id_of_a_bounded_stream_includes_its_bounds(embedded: Site) -> None:
    id_ = StopCondition(1_700_000_000_000, None, 7).wrap(POSITION.encode_json()).decode()
    async with embedded.gateway({"s": ["t"]}) as gateway:
        document = await explained(gateway, id_)
    assert document["ends"] == {"until": "2023-11-14T22:13:20.000Z", "deadline": None, "events": 7}
    assert document["partitions"] == PARTITIONS
    assert document["size_bytes"] == len(id_)


@pytest.mark.parametrize(
    ("id_", "partition"),
    [
        ('["a"]', {"partition": None, "offset": None, "timestamp": None}),
        (
            '[{"topic":"a","partition":0,"offset":-1}]',
            {"partition": 0, "offset": -1, "timestamp": None},
        ),
        (
            '[{"topic":"a","partition":0,"timestamp":0}]',
            {"partition": 0, "offset": None, "timestamp": 0},
        ),
    ],
)
async def test_an_id_that_is_no_position_has_no_other_form(
    embedded: Site, id_: str, partition: dict[str, Any]
) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        document = await explained(gateway, id_)
    assert document["partitions"] == [{"topic": "a", **partition, "time": None, "epoch": None}]
    assert document["other_form"] is None


@pytest.mark.parametrize("id_", ["{", "[]", "v2.AAAA", "v1.AAAA", "v1.%", "[{}]"])
async def test_an_invalid_id_gets_the_error_of_a_stream(embedded: Site, id_: str) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        page = await gateway.get(f"/v2/cursor?id={quote(id_, safe='')}")
        stream = await gateway.get("/v2/stream/s", {"Last-Event-ID": id_})
    assert page.status == stream.status == 400
    assert page.body == stream.body
    assert page.head.reason == stream.head.reason
    assert page.json()["name"] == "InvalidAssignmentError"


@pytest.mark.parametrize("query", ["", "?", "?id=", "?id=%20"])
async def test_without_an_id_the_error_explains_the_parameter(embedded: Site, query: str) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        answer = await gateway.get(f"/v2/cursor{query}")
    assert answer.status == 400
    assert "/v2/cursor?id=ID" in answer.json()["detail"]


async def test_cursor_accepts_only_get_and_head(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        assert (await gateway.ask("POST", "/v2/cursor?id=[]")).status == 404
        head = await gateway.ask("HEAD", f"/v2/cursor?id={quote(POSITION.encode().decode())}")
        assert head.status == 200


async def test_both_forms_of_an_id_contain_epochs(embedded: Site) -> None:
    position = Position(
        POSITION.partitions, POSITION.offsets, POSITION.timestamps, (7, NO_EPOCH, 0)
    )
    as_json = position.encode_json().decode()
    as_token = (position.encode_token() or b"").decode()
    async with embedded.gateway({"s": ["t"]}) as gateway:
        of_json = await explained(gateway, as_json)
        of_token = await explained(gateway, as_token)
    for said in (of_json, of_token):
        assert [each["epoch"] for each in said["partitions"]] == [7, None, 0]
    assert of_token["form"] == "token v2"
    assert of_json["other_form"]["id"] == as_token
    assert of_token["other_form"]["id"] == as_json


async def test_the_spec_describes_it(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        spec = (await gateway.get("/?spec")).json()
    [parameter] = spec["paths"]["/v2/cursor"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("id", "query", True)


@pytest.mark.parametrize("where", ["header", "query"])
async def test_a_stream_resumes_from_a_token_as_from_its_json(site: Site, where: str) -> None:
    topic = await site.topic(2)
    for n in range(4):
        await site.produce(topic, {"n": n}, partition=n % 2)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", since="0") as stream:
            id_ = (await stream.frames(3))[-1].id
        entries = json.loads(id_)
        position = Position(
            tuple(Partition(e["topic"], e["partition"]) for e in entries),
            tuple(e["offset"] for e in entries),
            tuple(e["timestamp"] for e in entries),
            tuple(e.get("epoch", NO_EPOCH) for e in entries),
        )
        token = (position.encode_token() or b"").decode()
        assert parse_last_event_id(token) == parse_last_event_id(id_)
        if where == "header":
            opened = gateway.stream("s", last_event_id=token)
        else:
            opened = gateway.stream("s", **{"last-event-id": token})
        async with opened as stream:
            assert [d["n"] for d in await stream.documents(1)] == [3]


@pytest.mark.parametrize("form", ["json", "token"])
async def test_an_id_of_too_many_partitions_is_refused(embedded: Site, form: str) -> None:
    count = 501 if form == "json" else 10_000
    partitions = tuple(Partition("t", n) for n in range(count))
    position = Position(partitions, (1,) * count, (1,) * count)
    id_ = position.encode_json() if form == "json" else position.encode_token()
    assert id_ is not None
    async with embedded.gateway({"s": ["t"]}) as gateway:
        answer = await gateway.get(f"/v2/cursor?id={quote(id_, safe='')}")
    assert answer.status == 400
    assert "500" in answer.json()["message"]


@pytest.mark.parametrize("offset", [-1, -2, -2000])
def test_an_offset_from_the_end_has_no_other_form(offset: int) -> None:
    id_ = json.dumps([{"topic": "t", "partition": 0, "offset": offset, "timestamp": 5}])
    assert explain(id_)["other_form"] is None
