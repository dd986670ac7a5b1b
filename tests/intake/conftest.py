"""The event loop that the gateway runs on, and a failure when something blocks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from blockbuster import blockbuster_ctx


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx("eventstreams") as blocking:
        # The pages are looked for once, before anything is served.
        blocking.functions["os.stat"].can_block_in("eventstreams/gateway.py", "_app")
        yield
