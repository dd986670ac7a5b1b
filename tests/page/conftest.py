"""Tests of the page share one browser per file, so everything asynchronous lives that long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from playwright.async_api import Browser, Page

from tests.support.fixtures import _no_blocking, embedded
from tests.support.gateway import Site
from tests.support.page import PATIENCE_MS, Shown, chromium, showing

__all__ = ["_no_blocking", "embedded"]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as it:
        yield it


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context(
        viewport={"width": 1360, "height": 850}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(PATIENCE_MS)
    yield await context.new_page()
    await context.close()


@pytest.fixture
async def shown(page: Page, embedded: Site) -> AsyncIterator[Shown]:
    """Return the page over a gateway with a stream of wikis, one of things and an empty one."""
    async with showing(page, embedded) as it:
        yield it
