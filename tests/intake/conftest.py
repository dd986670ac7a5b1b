"""The event loop that the gateway runs on, and a failure when something blocks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from tests.blocking import no_blocking


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with no_blocking():
        yield
