"""The page of live events in a real Chromium, over a gateway whose log the test fills."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from eventstreams.config.settings import AccessSettings, FanoutSettings, LimitSettings, Settings
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.model.event import Partition, Record
from tests.support.gateway import Served, Site, run_gateway, stream_of
from tests.support.programs import BROWSER, needed
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent.parent
PATIENCE_MS = PATIENCE_S * 1000
CHANGES = "mediawiki.recentchange"
THINGS = "things"
EMPTY = "empty"
expect.set_options(timeout=PATIENCE_MS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the system's Chromium.

    Its headless shell, where there is one, starts and opens pages with a fifth of the work, because
    it has no windows.
    """
    path = shutil.which("chromium-headless-shell") or needed("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=[*BROWSER[1:], "--js-flags=--expose-gc"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Shown:
    """A page that shows streams of a gateway."""

    def __init__(self, page: Page, served: Served, site: Site) -> None:
        self.page = page
        self.served = served
        self.site = site

    async def open(self, *, streams: str = THINGS, **request: str) -> None:
        """Open the page for a request, and wait until it shows what the gateway says of it."""
        query = urlencode({"streams": streams, **request})
        await self.page.goto(f"http://127.0.0.1:{self.served.port}/v2/ui/#?{query}")
        await expect(self.page.locator("#state")).not_to_have_text("Connecting …")

    async def is_live(self) -> None:
        await expect(self.page.locator("#state")).to_have_text("Live")

    @property
    def rows(self) -> Locator:
        """The rows in the document that hold an event."""
        return self.page.locator(".canvas > .row:not([hidden])")

    def row(self, text: str) -> Locator:
        return self.rows.filter(has_text=text)

    async def opened(self, text: str) -> Locator:
        """Open the row with this text, and return its document."""
        await self.row(text).locator(".toggle").click()
        return self.page.locator(".detail .json")

    async def cells(self) -> list[list[str]]:
        """Return the texts of all rows in the document, from the top."""
        found: list[tuple[float, list[str]]] = await self.page.evaluate(
            """() => [...document.querySelectorAll('.canvas > .row:not([hidden])')].map((row) => [
              new DOMMatrix(getComputedStyle(row).transform).f,
              [...row.querySelectorAll('[role=cell]')].slice(1).map((cell) => cell.textContent),
            ])"""
        )
        return [texts for _, texts in sorted(found)]

    async def read_aloud(self, child: int) -> list[str]:
        """Return the texts of a child of each row, in the order of the document.

        The page makes the list in one go. Playwright's `all_inner_texts` finds the elements first
        and reads their texts later, when the page may have moved them.
        """
        texts: list[str] = await self.page.evaluate(
            """(child) => [...document.querySelectorAll(
              `.canvas > .row:not([hidden]) > :nth-child(${child})`
            )].map((cell) => cell.textContent)""",
            child,
        )
        return texts

    async def titles(self) -> list[str]:
        """Return the titles of the columns, without the one of the buttons."""
        return (await self.page.locator("[role=columnheader]").all_text_contents())[1:]

    async def shows(self, column: int, *texts: str) -> None:
        """Wait until the rows in the document have these texts in a column, from the top."""
        async with asyncio.timeout(PATIENCE_S):
            while [cells[column] for cells in await self.cells()] != [*texts]:
                await asyncio.sleep(0.02)

    async def followed(self, end: int, topic: str = THINGS) -> None:
        """Wait until the gateway has read the topic up to this offset."""
        async with asyncio.timeout(PATIENCE_S):
            while self.served.parts.hub.tails.end(Partition(topic, 0)) < end:
                await asyncio.sleep(0.01)

    async def produce(
        self, *events: Mapping[str, Any], topic: str = THINGS, ago_s: float = 0
    ) -> None:
        """Append events, the last of them `ago_s` seconds old."""
        at = round((time.time() - ago_s) * 1000)
        await self.site.log.append(
            [Record(topic, json.dumps(event).encode(), None, at, 0) for event in events]
        )


def thing(n: int, **fields: Any) -> dict[str, Any]:
    """Return an event of a stream that no page knows."""
    meta = {"dt": iso(time.time()), "stream": THINGS, "id": f"id-{n}"}
    return {"$schema": "/thing/1.0.0", "meta": meta, "n": n, "name": f"thing {n}", **fields}


def iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{round(seconds % 1 * 1000) % 1000:03d}Z"


def change(n: int, **fields: Any) -> dict[str, Any]:
    """Return an event of a wiki."""
    return {
        "$schema": "/mediawiki/recentchange/1.0.0",
        "meta": {"dt": iso(time.time()), "stream": CHANGES, "domain": "en.wikipedia.example"},
        "id": n,
        "type": "edit",
        "title": f"Page {n}",
        "title_url": f"https://en.wikipedia.org/wiki/Page_{n}",
        "user": "Ada Quill",
        "wiki": "enwiki",
        "bot": False,
        "minor": False,
        "length": {"old": 100, "new": 1350},
        "comment": "copyedit",
        **fields,
    }


STREAMS = {
    CHANGES: stream_of(CHANGES, [CHANGES], aliases=("recentchange",))._replace(
        schema_title="mediawiki/recentchange", description="Recent changes of the wikis."
    ),
    THINGS: stream_of(THINGS, [THINGS])._replace(schema_title=None, description="Of the sea."),
    EMPTY: stream_of(EMPTY, [EMPTY])._replace(schema_title="test/event", description="Nothing."),
}


@asynccontextmanager
async def showing(
    page: Page,
    site: Site,
    streams: Mapping[str, Stream] = STREAMS,
    *,
    access: AccessSettings | None = None,
    limits: LimitSettings | None = None,
    **fanout: Any,
) -> AsyncIterator[Shown]:
    """Run a gateway for the page. The page must have logged no error at the end of the block."""
    settings = Settings(
        log=site.settings,
        only="gateway",
        schemas=(str(ROOT / "config" / "schemas"),),
        access=access or AccessSettings(),
        limits=limits or LimitSettings(),
        fanout=FanoutSettings(**fanout),
    )
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    for stream in streams.values():
        for topic in stream.topics:
            await site.log.create_topic(topic, 1)
    async with run_gateway(settings, Catalogue(dict(streams))) as served:
        await served.parts.hub.reachable.wait()
        yield Shown(page, served, site)
        await page.goto("about:blank")
    refused = re.compile(r"status of (400|401|403|404|429|503) |net::ERR_")
    assert not [text for text in wrong if not refused.search(text)]
