"""The cache of schemas: each is read once, and failures are cached for a while."""

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
from eventstreams.schemas.repository import Schema, SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.schemas.uri import SchemaUri
from tests.support.schema_folders import put, schema
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class Counted(SchemaRepository):
    """A repository that counts its reads, and waits until it may read."""

    def __init__(self, folder: Path) -> None:
        super().__init__([folder])
        self.reads: list[str] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.searches = 0

    def uris(self) -> list[SchemaUri]:
        self.searches += 1
        assert self.may_read.wait(20)
        return super().uris()

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


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(repository: Counted, clock: Clock) -> AsyncIterator[SchemaStore]:
    store = SchemaStore(repository, retry_s=3600, latest_s=10, failures_max=10, clock=clock)
    yield store
    await store.aclose()


class Event:
    """An event whose schema is requested."""


async def test_a_cached_failure_keeps_no_event_in_memory(store: SchemaStore) -> None:
    async def ask() -> weakref.ref[Event]:
        event = Event()
        with pytest.raises(SchemaNotFound):
            await store.get("/a/none/1.0.0")
        return weakref.ref(event)

    asked = [await ask(), await ask()]
    async with asyncio.timeout(PATIENCE_S):  # the loop and the thread release it after a while
        while any(event() is not None for event in asked):
            gc.collect()
            await asyncio.sleep(0.01)


async def test_concurrent_requests_read_a_schema_once(
    store: SchemaStore, repository: Counted
) -> None:
    repository.may_read.clear()
    waiting = [asyncio.create_task(store.get("/a/b/1.0.0")) for _ in range(20)]
    while not repository.reads:
        await asyncio.sleep(0)
    waiting[0].cancel()
    repository.may_read.set()
    found = await asyncio.gather(*waiting[1:])
    assert len({id(compiled) for compiled in found}) == 1
    assert await store.get("/a/b/1.0.0") is found[0]
    assert repository.reads == ["/a/b/1.0.0"]


async def test_missing_schemas_are_cached_for_a_while(repository: Counted, tmp_path: Path) -> None:
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


async def test_an_invalid_schema_is_an_error_each_time(
    store: SchemaStore, repository: Counted
) -> None:
    texts = set()
    for _ in range(2):
        with pytest.raises(SchemaError) as caught:
            await store.get("/a/broken/1.0.0")
        texts.add(str(caught.value))
    [text] = texts
    assert "/a/broken/1.0.0" in text or "properties" in text
    assert len(repository.reads) == 1


async def test_the_number_of_cached_failures_is_limited(store: SchemaStore) -> None:
    for n in range(25):
        with pytest.raises(SchemaNotFound):
            await store.get(f"/made/up/{n}.0.0")
    assert len(store._failed) == 10
    for absurd in ("/../a/1.0.0", "http://x/a/1.0.0", "x" * 10_000, ""):
        with pytest.raises(BadSchemaUri):
            await store.get(absurd)
    assert len(store._failed) == 10


async def test_the_newest_version_is_cached_for_a_while(
    store: SchemaStore, tmp_path: Path, clock: Clock
) -> None:
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/1.10.0"
    put(tmp_path, "a/b/2.0.0.yaml", schema("/a/b/2.0.0"))
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/1.10.0"
    clock.now_s += 11
    assert str((await store.latest("a/b")).schema.uri) == "/a/b/2.0.0"
    with pytest.raises(SchemaError):
        await store.latest("a/nothing")


async def test_all_versions_are_listed(store: SchemaStore) -> None:
    uris = [str(uri) for uri in await store.uris()]
    assert uris == ["/a/b/1.0.0", "/a/b/1.2.0", "/a/b/1.10.0", "/a/broken/1.0.0"]


async def test_concurrent_requests_list_schemas_once(
    store: SchemaStore, repository: Counted, tmp_path: Path, clock: Clock
) -> None:
    repository.may_read.clear()
    waiting = [asyncio.create_task(store.uris()) for _ in range(20)]
    while not repository.searches:
        await asyncio.sleep(0)
    waiting[0].cancel()
    repository.may_read.set()
    lists = await asyncio.gather(*waiting[1:])
    put(tmp_path, "a/b/2.0.0.yaml", schema("/a/b/2.0.0"))
    assert all(each is lists[0] for each in (*lists, await store.uris()))
    assert repository.searches == 1
    clock.now_s += 11
    assert "/a/b/2.0.0" in map(str, await store.uris())


async def test_a_failed_list_is_read_again(
    store: SchemaStore, repository: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[SchemaUri]:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(repository, "uris", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            await store.uris()
    assert len(await store.uris()) == 4


async def test_closing_waits_for_reads_in_progress(repository: Counted) -> None:
    store = SchemaStore(repository, retry_s=1)
    repository.may_read.clear()
    waiting = asyncio.create_task(store.get("/a/b/1.0.0"))
    while not repository.reads:
        await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    repository.may_read.set()
    await closing
    assert (await waiting).schema.document["title"] == "a/b"
