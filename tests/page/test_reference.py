"""The API reference at /?doc: Swagger UI under the gateway's own policy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from eventstreams.config.settings import Settings
from eventstreams.model.catalogue import Catalogue
from tests.support.axe import violations
from tests.support.gateway import Served, Site, run_gateway, stream_of
from tests.support.page import PATIENCE_MS, ROOT

pytestmark = pytest.mark.anyio

STREAM = "eventstreams.test"


@asynccontextmanager
async def reference(
    browser: Browser, site: Site, *, width: int = 1200, **options: Any
) -> AsyncIterator[tuple[Page, Served, list[str]]]:
    """Open the reference. The list gets what the page writes to its console."""
    settings = Settings(log=site.settings, schemas=(str(ROOT / "config" / "schemas"),))
    stream = stream_of(STREAM, [STREAM], aliases=("test",))
    viewport = {"width": width, "height": 900}
    context = await browser.new_context(
        viewport=viewport,  # type: ignore[arg-type]
        **options,
    )
    context.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    async with run_gateway(settings, Catalogue({STREAM: stream})) as gateway:
        await gateway.parts.hub.reachable.wait()
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        await page.goto(f"http://127.0.0.1:{gateway.port}/?doc")
        await expect(page.locator(".opblock").first).to_be_visible()
        yield page, gateway, said
        await context.close()


def operation(page: Page, method: str, path: str) -> Locator:
    summary = page.locator(f'.opblock-summary-path[data-path="{path}"]')
    return page.locator(f".opblock-{method}", has=summary)


async def begin_to_try(it: Locator) -> None:
    await it.locator(".opblock-summary-control").click()
    await it.locator(".try-out__btn").click()
    await expect(it.locator(".execute")).to_be_visible()


async def test_it_shows_every_operation_once_and_no_alias(browser: Browser, embedded: Site) -> None:
    async with reference(browser, embedded) as (page, gateway, said):
        paths = (await gateway.get("/?spec")).json()["paths"]
        assert paths.pop("/v2/stream/test")["get"]["x-alias-of"] == STREAM
        shown = await page.locator(".opblock").evaluate_all(
            """(all) => all.map((one) => [
              one.querySelector('.opblock-summary-method').textContent.toLowerCase(),
              one.querySelector('.opblock-summary-path').dataset.path,
            ])"""
        )
    operations = sorted([method, path] for path in paths for method in paths[path])
    assert sorted(shown) == operations
    assert ["post", "/v1/events"] in operations
    assert said == []


async def test_an_event_is_posted_and_read_by_trying_it(browser: Browser, embedded: Site) -> None:
    async with reference(browser, embedded, width=390) as (page, _, said):
        post = operation(page, "post", "/v1/events")
        await begin_to_try(post)
        example = json.loads(await post.locator("textarea.body-param__text").input_value())
        await post.locator(".execute").click()
        await expect(post.locator(".live-responses-table tbody .response-col_status")).to_have_text(
            "201"
        )
        get = operation(page, "get", f"/v2/stream/{STREAM}")
        await begin_to_try(get)
        await get.get_by_placeholder("since").fill("earliest")
        await get.get_by_placeholder("limit").fill("1")
        await get.locator(".execute").click()
        answer = get.locator(".live-responses-table tbody .response-col_description")
        await expect(answer).to_contain_text(f'"test":"{example["test"]}"')
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
    assert said == []


async def test_a_stream_that_is_tried_without_an_end_gets_one(
    browser: Browser, embedded: Site
) -> None:
    async with reference(browser, embedded) as (page, _, _):
        get = operation(page, "get", f"/v2/stream/{STREAM}")
        await begin_to_try(get)
        async with page.expect_request("**/v2/stream/**") as caught:
            await get.locator(".execute").click()
        assert (await caught.value).url.endswith("&max_seconds=5")


async def test_the_schema_of_a_streams_events_and_an_example_are_shown(
    browser: Browser, embedded: Site
) -> None:
    async with reference(browser, embedded) as (page, _, _):
        get = operation(page, "get", f"/v2/stream/{STREAM}")
        await get.locator(".opblock-summary-control").click()
        answer = get.locator("tr.response[data-code='200']")
        await answer.get_by_label("Media type").select_option("application/x-ndjson")
        await expect(answer.locator(".example")).to_contain_text('"$schema": "/test/event/1.0.0"')
        await answer.get_by_role("tab", name="Schema").click()
        await expect(answer.locator(".model-box, .json-schema-2020-12").first).to_be_visible()


async def test_axe_finds_nothing_wrong(browser: Browser, embedded: Site) -> None:
    async with reference(browser, embedded, bypass_csp=True) as (page, _, _):
        await begin_to_try(operation(page, "post", "/v1/events"))
        found = {"tried": await violations(page)}
        await page.get_by_role("button", name="Authorize").click()
        await expect(page.locator(".dialog-ux")).to_be_visible()
        found["authorize"] = await violations(page, ".dialog-ux")
    assert found == {"tried": [], "authorize": []}
