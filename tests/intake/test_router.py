"""Events are routed only to declared streams and existing schemas."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eventstreams.intake.router import EventRouter
from eventstreams.model.stream_config import StreamConfigs
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import Compiled, SchemaStore
from tests.support.intake import SHIPPED, STREAMS, TEST, Place, event, place

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("mode", ["strict", "eventgate"])


async def refusal(here: Place, posted: Any, mode: str) -> str:
    answer = await here.post(posted)
    if mode == "strict":
        assert answer.status_code == 400
        return str(answer.json()["invalid"][0]["context"]["errorsText"])
    assert answer.status_code == 500
    return str(answer.json()["error"][0]["context"]["message"])


@both
async def test_a_stream_must_be_declared(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        assert "nowhere is not declared" in await refusal(here, event(stream="nowhere"), mode)


@both
@pytest.mark.parametrize("name", ["Things", "test.things", "eqiad.test.thing"])
async def test_an_alias_or_topic_is_refused_with_the_streams_name(
    tmp_path: Path, mode: str, name: str
) -> None:
    stream = {
        "schema_title": "test/event",
        "topics": ["eqiad.test.thing"],
        "stream_aliases": ["test.things", "things"],
    }
    async with place(
        tmp_path, streams=STREAMS | {"test.thing": stream}, compatibility=mode
    ) as here:
        message = await refusal(here, event(stream=name), mode)
    assert f"Stream {name} is not declared; use the name test.thing" in message


@both
async def test_a_stream_accepts_only_its_schema_title(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, event(stream="test.http"), mode)
        assert "test/event is not allowed in stream test.http" in message
        other = {"$schema": "/test/http/1.0.0", "meta": {"stream": "test.regex.a"}}
        assert "is not allowed" in await refusal(here, other, mode)


@both
async def test_a_stream_without_schema_title_accepts_nothing(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, event(stream="test.untitled"), mode)
        assert "no schema_title setting" in message


async def test_a_pattern_declares_all_streams_that_match(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert (await here.post(event(stream="test.regex.a"))).status_code == 201
        assert len(await here.documents("test.regex.a")) == 1
        assert here.served.count(
            "intake_events_total", stream="/^test\\.regex\\..+/", outcome="accepted"
        )


@both
@pytest.mark.parametrize("name", ["../up", "test.regex.a/b", "test.regex." + "x" * 300, "", 7])
async def test_a_pattern_does_not_make_arbitrary_text_a_topic(
    tmp_path: Path, mode: str, name: Any
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        await refusal(here, event(stream=name), mode)


@both
@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9/test/event/1.0.0",
        "file:///etc/passwd",
        "//host/test/event/1.0.0",
        "/../../etc/passwd",
        "/test/../test/event/1.0.0",
        "/test/event/../event/1.0.0",
        "/test/event/latest",
        "/test/event",
        "/test/event/1.0.0.yml",
        "./test/event/1.0.0",
        "test:test/event/1.0.0",
        "/test/event/9.9.9",
        "/" + "x" * 10_000 + "/1.0.0",
        "",
        {"a": 1},
        1,
    ],
)
async def test_a_schema_uri_is_a_title_and_a_full_version(
    tmp_path: Path, mode: str, uri: Any
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        message = await refusal(here, {**event(), "$schema": uri}, mode)
        assert len(message) < 1000
        assert "root:" not in message


async def test_concurrent_first_events_of_a_schema_are_accepted(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answers = await asyncio.gather(*(here.post(event(str(n))) for n in range(20)))
        assert {answer.status_code for answer in answers} == {201}
        assert {each["test"] for each in await here.documents()} == {str(n) for n in range(20)}


async def test_metrics_have_only_declared_streams(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.post([event(stream="made.up.1"), event(stream="made.up.2"), event(1), [7]])
        count = here.served.count
        assert count("intake_events_total", stream="undeclared", outcome="invalid") == 3
        assert count("intake_events_total", stream=TEST, outcome="invalid") == 1
        assert count("intake_requests_total", status="400") == 1


@both
@pytest.mark.parametrize(
    "uri", ["test/event/1.0.0", "/test/event/1.0.0.yaml", "test/event/1.0.0.json"]
)
async def test_a_schema_uri_may_lack_its_slash_and_have_an_extension(
    tmp_path: Path, mode: str, uri: str
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        assert (await here.post({**event(), "$schema": uri})).status_code == 201
        [stored] = await here.documents()
        assert stored["$schema"] == uri


class WaitingStore(SchemaStore):
    """A store that responds only after the test allows it."""

    def __init__(self, repository: SchemaRepository) -> None:
        super().__init__(repository, retry_s=1.0)
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def get(self, uri: str) -> Compiled:
        self.asked.set()
        await self.answers.wait()
        return await super().get(uri)


async def test_a_route_found_while_the_catalogue_changes_is_not_kept() -> None:
    def configs(topic: str) -> StreamConfigs:
        return StreamConfigs({TEST: {"schema_title": "test/event", "topics": [topic]}})

    uri = "/test/event/1.0.0"
    declared = configs("old")
    store = WaitingStore(SchemaRepository([SHIPPED]))
    router = EventRouter(configs=lambda: declared, schemas=store, topic_prefix=None)
    finding = asyncio.create_task(router.route(TEST, uri))
    await store.asked.wait()
    declared = configs("new")
    assert router.known(TEST, uri) is None
    store.answers.set()
    await finding
    known = router.known(TEST, uri)
    assert known is None or known.topic == "new"
    assert (await router.route(TEST, uri)).topic == "new"
    await store.aclose()


def router_of(
    streams: dict[str, Any], prefix: str | None = None, routes_max: int = 1000
) -> EventRouter:
    configs = StreamConfigs(streams)
    store = SchemaStore(SchemaRepository([SHIPPED]), retry_s=1.0)
    return EventRouter(
        configs=lambda: configs, schemas=store, topic_prefix=prefix, routes_max=routes_max
    )


async def test_invented_names_use_bounded_memory() -> None:
    router = router_of({"/^made\\.up\\./": {"schema_title": "test/event"}}, routes_max=3)
    for n in range(20):
        await router.route(f"made.up.{n}", "/test/event/1.0.0")
        assert router.known(f"made.up.{n}", "/test/event/1.0.0") is not None
        assert len(router._routes) <= 3
    await router._schemas.aclose()


async def test_eventlogging_streams_are_never_prefixed() -> None:
    topics = {
        "plain": ["plain", "eqiad.plain"],
        "eventlogging_Old": ["eventlogging_Old", "eqiad.eventlogging_Old"],
    }
    router = router_of(
        {name: {"schema_title": "test/event", "topics": mine} for name, mine in topics.items()},
        prefix="eqiad.",
    )
    found = [(await router.route(name, "/test/event/1.0.0")).topic for name in topics]
    assert found == ["eqiad.plain", "eventlogging_Old"]
    await router._schemas.aclose()
