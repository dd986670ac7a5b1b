"""The event loop that the gateway runs on, and a failure when something blocks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.blocking import no_blocking
from tests.hostile.target import Target, target


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with no_blocking():
        yield


@pytest.fixture
async def everything(tmp_path: Path) -> AsyncIterator[Target]:
    """A gateway with all of its parts on."""
    async with target(tmp_path) as it:
        yield it
