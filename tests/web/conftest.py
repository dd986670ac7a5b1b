"""Every test of this folder that takes `site` runs over the embedded log and over Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from tests.blocking import no_blocking
from tests.log.backends import Backend, Kafka, Sqlite
from tests.web.gateway import Site, site_of

_KINDS = [pytest.param(kind, id=kind.name, marks=kind.marks) for kind in (Sqlite, Kafka)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that the gateway runs on."""
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with no_blocking():
        yield


@pytest.fixture(params=_KINDS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    kind: type[Backend] = request.param
    async with site_of(kind) as site:
        yield site


@pytest.fixture
async def embedded() -> AsyncIterator[Site]:
    """For what has nothing to do with the log."""
    async with site_of(Sqlite) as site:
        yield site


@pytest.fixture
async def kafka_site() -> AsyncIterator[Site]:
    """For what only Kafka has; its tests are marked `kafka`."""
    async with site_of(Kafka) as site:
        yield site
