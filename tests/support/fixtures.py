"""Fixtures of the folders whose tests run gateways, for their conftest.py to import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from tests.support.backends import Backend, Kafka, Sqlite
from tests.support.blocking import no_blocking
from tests.support.gateway import Site, site_of

_KINDS = [pytest.param(kind, id=kind.name, marks=kind.marks) for kind in (Sqlite, Kafka)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that the gateway runs on."""
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    """Fail a test when something blocks the event loop."""
    with no_blocking():
        yield


@pytest.fixture(params=_KINDS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Return a place with a log: the test runs once on the embedded log and once on Kafka."""
    kind: type[Backend] = request.param
    async with site_of(kind) as site:
        yield site


@pytest.fixture
async def embedded() -> AsyncIterator[Site]:
    """Return a place with an embedded log, for tests that do not depend on the kind of log."""
    async with site_of(Sqlite) as site:
        yield site


@pytest.fixture
async def kafka_site() -> AsyncIterator[Site]:
    """Return a place with Kafka, for tests marked `kafka` of features that only Kafka has."""
    async with site_of(Kafka) as site:
        yield site
