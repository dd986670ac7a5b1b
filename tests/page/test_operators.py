"""The operators' page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from eventstreams.config.settings import AccessSettings, LimitSettings, Settings
from eventstreams.model.catalogue import Catalogue
from tests.support.axe import violations
from tests.support.gateway import Served, Site, run_gateway, stream_of
from tests.support.other_site import OtherSite, other_site
from tests.support.page import PATIENCE_MS

pytestmark = pytest.mark.anyio

KEY = "k" * 32
LOST = re.compile("net::ERR_INCOMPLETE|status of 503")


def rules(other: OtherSite, *, paused: bool) -> None:
    """Make the site answer like a propagation process with one rule."""
    figures = {"trouble": None, "running": 1, "ready": 0, "waiting": 2, "lag": 31}
    rule = {"name": "purge", "paused": paused, **figures}
    state = {"service": "test", "open_circuits": [], "rules": [rule]}
    other.files["/v2/propagation"] = ("application/json", json.dumps(state).encode())
    other.files["/v2/propagation/purge/pause"] = ("application/json", b"{}")


@asynccontextmanager
async def operators(
    browser: Browser, site: Site, folder: Path, *, width: int = 1200, **options: Any
) -> AsyncIterator[tuple[Page, Served, OtherSite]]:
    """Open the page and give it the key. It must have logged no error at the end of the block."""
    folder.joinpath("key").write_text(KEY)
    viewport: Any = {"width": width, "height": 900}
    context = await browser.new_context(viewport=viewport, **options)
    context.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    async with other_site() as other:
        rules(other, paused=False)
        settings = Settings(
            log=site.settings,
            access=AccessSettings(admin_key_file=str(folder / "key")),
            limits=LimitSettings(streams_max=9),
            propagation=(other.url,),
        )
        catalogue = Catalogue({"s": stream_of("s", [await site.topic()])})
        async with run_gateway(settings, catalogue) as gateway:
            await gateway.parts.hub.reachable.wait()
            page = await context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            await page.goto(f"http://127.0.0.1:{gateway.port}/v2/admin/")
            await page.get_by_label("Operator's key").fill(KEY)
            await page.get_by_role("button", name="Connect").click()
            await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
            yield page, gateway, other
            await context.close()
    assert [text for text in said if not LOST.search(text)] == []


def figure(page: Page, name: str) -> Any:
    return page.locator("#numbers div", has=page.get_by_text(name, exact=True)).locator("dd")


async def test_the_figures_follow_the_gateway_and_outlive_a_cut_and_a_reload(
    browser: Browser, embedded: Site, tmp_path: Path
) -> None:
    async with operators(browser, embedded, tmp_path, width=390) as (page, gateway, _):
        await expect(figure(page, "Log")).to_have_text("ok")
        await expect(figure(page, "Clients")).to_have_text("0")
        async with gateway.stream("s"):
            await expect(figure(page, "Clients")).to_have_text("1")
            await expect(figure(page, "Streams (limit)")).to_have_text("1 of 9")
            row = page.get_by_role("row", name="s 1")
            await expect(row).to_be_visible()
        gateway.server.drop_connections()
        await expect(page.get_by_text("Connection lost, trying again …")).to_be_visible()
        await expect(figure(page, "Clients")).to_have_text("0")
        await page.reload()
        await expect(figure(page, "Clients")).to_have_text("0")
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
        await page.get_by_role("button", name="Forget the key").click()
        await expect(page.locator("#figures")).to_be_hidden()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_figures_are_marked_as_old_while_the_gateway_does_not_answer(
    browser: Browser, embedded: Site, tmp_path: Path
) -> None:
    async with operators(browser, embedded, tmp_path, bypass_csp=True) as (page, gateway, _):
        old = page.get_by_text("These figures are of")
        await expect(figure(page, "Log")).to_have_text("ok")
        await expect(old).to_be_hidden()
        busy = {"status": 503, "json": {"detail": "Busy"}}
        await page.route("**/v2/admin/ticket", lambda route: route.fulfill(**busy))
        gateway.server.drop_connections()
        await expect(old).to_be_visible()
        assert await violations(page) == []
        await page.unroute("**/v2/admin/ticket")
        await expect(old).to_be_hidden()


async def test_a_rule_has_a_row_and_a_button_that_pauses_it(
    browser: Browser, embedded: Site, tmp_path: Path
) -> None:
    async with operators(browser, embedded, tmp_path) as (page, _, other):
        await expect(page.get_by_role("row", name="purge running 31 1 2")).to_be_visible()
        rules(other, paused=True)
        await page.get_by_role("button", name="Pause purge").click()
        await expect(page.get_by_role("button", name="Resume purge")).to_be_visible()
        posts = [head for head in other.requests if head.startswith("POST")]
        assert [head.split(" ")[1] for head in posts] == ["/v2/propagation/purge/pause"]


async def test_axe_finds_nothing_wrong(browser: Browser, embedded: Site, tmp_path: Path) -> None:
    async with operators(browser, embedded, tmp_path, bypass_csp=True) as (page, _, _):
        await expect(page.get_by_role("row", name="purge")).to_be_visible()
        assert await violations(page) == []


async def test_the_page_says_where_the_key_is_until_it_was_given(
    browser: Browser, embedded: Site, tmp_path: Path
) -> None:
    async with operators(browser, embedded, tmp_path) as (page, _, _):
        where = page.get_by_text("access.admin_key_file")
        await expect(page.locator("#state")).to_have_text("Connected")
        await expect(where).to_be_hidden()
        await page.click("#forget")
        await expect(where).to_be_visible()


async def test_without_a_key_a_browser_shows_how_to_set_one(page: Page, embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        await page.goto(f"http://127.0.0.1:{gateway.port}/v2/admin/")
        await expect(page.get_by_text("access.admin_key_file")).to_be_visible()
        assert await violations(page) == []
