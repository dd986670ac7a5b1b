"""Schemas in an event loop: read once, failures remembered for a while."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import BadSchemaUri, SchemaError, SchemaNotFound
from eventstreams.schemas import store as store_module
from eventstreams.schemas.repository import Schema, SchemaRepository
from eventstreams.schemas.store import SchemaStore
from tests.schemas.folders import put, schema

pytestmark = pytest.mark.anyio


class Counted(SchemaRepository):
    """Reads when it may, and counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__([folder])
        self.reads: list[str] = []
        self.may_read = threading.Event()
        self.may_read.set()

    def get(self, uri: Any) -> Schema:
        self.reads.append(str(uri))
        assert self.may_read.wait(20)
        return super().get(uri)


@pytest.fixture
def repository(tmp_path: Path) -> Counted:
    for version in ("1.0.0", "1.2.0", "1.10.0"):
        put(tmp_path, f"a/b/{version}.yaml", schema(f"/a/b/{version}"))
    put(tmp_path, "a/broken/1.0.0.yaml", schema("/a/broken/1.0.0", properties=7))
    return Counted(tmp_path)


@pytest.fixture
async def store(repository: Counted) -> AsyncIterator[SchemaStore]:
    store = SchemaStore(repository, retry_s=3600)
    yield store
    await store.aclose()


class Event:
    """What asks for a schema."""


async def test_a_failure_that_is_remembered_holds_nothing_of_who_asked(store: SchemaStore) -> None:
    async def ask() -> weakref.ref[Event]:
        event = Event()
        with pytest.raises(SchemaNotFound):
            await store.get("/a/none/1.0.0")
        return weakref.ref(event)

    asked = [await ask(), await ask()]
    async with asyncio.timeout(20):  # the loop and the thread let go of it in their own time
        while any(event() is not None for event in asked):
            gc.collect()
            await asyncio.sleep(0.01)


async def test_a_schema_is_read_once_however_many_wait_for_it(
    store: SchemaStore, repository: Counted
) -> None:
    assert store.peek("/a/b/1.0.0") is None
    repository.may_read.clear()
    waiting = [asyncio.create_task(store.get("/a/b/1.0.0")) for _ in range(20)]
    while not repository.reads:
        await asyncio.sleep(0)
    waiting[0].cancel()
    repository.may_read.set()
    found = await asyncio.gather(*waiting[1:])
    assert len({id(compiled) for compiled in found}) == 1
    assert await store.get("/a/b/1.0.0") is found[0]
    assert store.peek("/a/b/1.0.0") is found[0]
    assert repository.reads == ["/a/b/1.0.0"]


async def test_what_is_not_there_is_not_looked_for_again_for_a_while(
    repository: Counted, tmp_path: Path
) -> None:
    store = SchemaStore(repository, retry_s=3600)
    for _ in range(3):
        with pytest.raises(SchemaNotFound):
            await store.get("/a/new/1.0.0")
    assert repository.reads == ["/a/new/1.0.0"]
    await store.aclose()
    store = SchemaStore(repository, retry_s=0)
    with pytest.raises(SchemaNotFound):
        await store.get("/a/new/1.0.0")
    put(tmp_path, "a/new/1.0.0.yaml", schema("/a/new/1.0.0"))
    assert (await store.get("/a/new/1.0.0")).schema.document["title"] == "a/new"
    await store.aclose()


async def test_a_broken_schema_says_so_each_time(store: SchemaStore, repository: Counted) -> None:
    texts = set()
    for _ in range(2):
        with pytest.raises(SchemaError) as caught:
            await store.get("/a/broken/1.0.0")
        texts.add(str(caught.value))
    [text] = texts
    assert "/a/broken/1.0.0" in text or "properties" in text
    assert len(repository.reads) == 1


async def test_failures_are_remembered_within_bounds(
    store: SchemaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_FAILURES_MAX", 10)
    for n in range(25):
        with pytest.raises(SchemaNotFound):
            await store.get(f"/made/up/{n}.0.0")
    assert len(store._failed) == 10
    for absurd in ("/../a/1.0.0", "http://x/a/1.0.0", "x" * 10_000, ""):
        with pytest.raises(BadSchemaUri):
            await store.get(absurd)
    assert len(store._failed) == 10


async def test_the_latest_is_the_highest_version_and_is_looked_for_now_and_then(
    store: SchemaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/1.10.0"
    put(tmp_path, "a/b/2.0.0.yaml", schema("/a/b/2.0.0"))
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/1.10.0"
    later = store_module.time.monotonic() + store_module._LATEST_S + 1
    monkeypatch.setattr(store_module.time, "monotonic", lambda: later)
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/2.0.0"
    with pytest.raises(SchemaError):
        await store.latest("a/nothing")


async def test_all_versions_are_listed(store: SchemaStore) -> None:
    uris = [str(uri) for uri in await store.uris()]
    assert uris == ["/a/b/1.0.0", "/a/b/1.2.0", "/a/b/1.10.0", "/a/broken/1.0.0"]


async def test_closing_waits_for_what_is_being_read(repository: Counted) -> None:
    store = SchemaStore(repository, retry_s=1)
    repository.may_read.clear()
    waiting = asyncio.create_task(store.get("/a/b/1.0.0"))
    while not repository.reads:
        await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    repository.may_read.set()
    await closing
    assert (await waiting).schema.document["title"] == "a/b"
