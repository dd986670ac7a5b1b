"""Provides a backend and an open log of it, for tests that run over several kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventstreams.log.base import Log
from tests.support.backends import Backend


@pytest.fixture
async def backend(kind: type[Backend]) -> AsyncIterator[Backend]:
    async with kind.place() as backend:
        yield backend


@pytest.fixture
async def log(backend: Backend) -> AsyncIterator[Log]:
    log = await backend.open()
    yield log
    await log.aclose()
