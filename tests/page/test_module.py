"""static/eventstreams.js, the module for other people's pages, in tabs of a real browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from eventstreams.config.settings import AccessSettings
from tests.support.gateway import Served, Site, stream_of
from tests.support.issuer import SECRET, secret_token
from tests.support.other_site import OtherSite, other_site
from tests.support.page import PATIENCE_MS, ROOT
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

MODULE = ROOT / "static" / "eventstreams.js"
FOLLOW = """async ([module, streams, options]) => {
  const { connect } = await import(module);
  globalThis.got = [];
  globalThis.said = [];
  globalThis.connection = connect(streams, {
    ...options,
    onEvents: (events) => got.push(...events.map(({ data }) => data.n)),
    onGap: (gap) => said.push(['gap', gap]),
    onError: (error) => said.push(['error', error]),
    onCaughtUp: () => said.push(['caught-up']),
    onState: ({ state }) => said.push(['state', state]),
  });
}"""


@asynccontextmanager
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context
    finally:
        await context.close()


def url_of(gateway: Served, path: str = "/") -> str:
    return f"http://127.0.0.1:{gateway.port}{path}"


async def follow(page: Page, module: str, **options: Any) -> None:
    await page.evaluate(FOLLOW, [module, "s", options])


async def tab(context: BrowserContext, gateway: Served, **options: Any) -> Page:
    """Return a tab of the gateway's origin that follows the stream."""
    page = await context.new_page()
    await page.goto(url_of(gateway, "/robots.txt"))
    await follow(page, url_of(gateway, "/v2/ui/eventstreams.js"), **options)
    return page


async def tab_of(
    other: OtherSite, context: BrowserContext, gateway: Served, **options: Any
) -> Page:
    """Return a tab of another origin that follows the stream."""
    other.page("")
    page = await context.new_page()
    await page.goto(other.url)
    await follow(page, url_of(gateway, "/v2/ui/eventstreams.js"), **options)
    return page


async def until_true(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true.

    Playwright's own wait evaluates text in the page, which the gateway's policy forbids.
    """
    try:
        await until(lambda: page.evaluate(condition), every_s=0.01)
    except TimeoutError:
        pytest.fail(f"{condition} stays false; callbacks: {await page.evaluate('said')}")


async def has(page: Page, numbers: list[int]) -> None:
    """Wait until these events have been delivered, and assert that they are all."""
    await until_true(page, f"got.length >= {len(numbers)}")
    assert await page.evaluate("got") == numbers


async def said(page: Page, *words: Any) -> None:
    """Wait for a callback whose JSON begins like this."""
    begin = json.dumps(words, separators=(",", ":")).rstrip("]}")
    await until_true(
        page, f"said.some((one) => JSON.stringify(one).startsWith({json.dumps(begin)}))"
    )


async def is_open(page: Page) -> None:
    await until_true(page, "connection.state === 'open'")


async def produce(site: Site, topic: str, first: int, last: int) -> None:
    await site.produce(topic, *({"n": n} for n in range(first, last + 1)))


async def connections(gateway: Served, count: int) -> None:
    await gateway.until("stream_clients", count, stream="s")


async def test_eight_tabs_share_one_connection_and_leave_room_for_requests(
    embedded: Site, browser: Browser
) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        pages = [await tab(tabs, gateway) for _ in range(8)]
        for page in pages:
            await is_open(page)
        await produce(embedded, topic, 1, 3)
        for page in pages:
            await has(page, [1, 2, 3])
        await connections(gateway, 1)
        assert await pages[7].evaluate("fetch('/healthz').then(({ status }) => status)") == 200


async def test_without_sharing_the_seventh_tab_starves(embedded: Site, browser: Browser) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        pages = [await tabs.new_page() for _ in range(7)]
        for page in pages:
            await page.goto(url_of(gateway, "/robots.txt"))
            await page.evaluate("import('/v2/ui/eventstreams.js')")
        for page in pages:
            await follow(page, "/v2/ui/eventstreams.js", share=False, stallSeconds=600)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                states = [await page.evaluate("connection.state") for page in pages]
                if states.count("open") == 6:
                    break
                await asyncio.sleep(0.01)
        seventh = pages.pop(states.index("connecting"))  # any may be the last to connect
        await produce(embedded, topic, 1, 3)
        for page in pages:
            await has(page, [1, 2, 3])
        assert await seventh.evaluate("[got.length, connection.state]") == [0, "connecting"]
        await connections(gateway, 6)
        await pages[0].evaluate("connection.close()")
        await is_open(seventh)


async def test_a_page_of_another_origin_shares_too_and_survives_its_leader(
    embedded: Site, browser: Browser
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        other_site() as other,
        context(browser) as tabs,
    ):
        pages = [await tab_of(other, tabs, gateway) for _ in range(3)]
        for page in pages:
            await is_open(page)
        await produce(embedded, topic, 1, 3)
        for page in pages:
            await has(page, [1, 2, 3])
        await connections(gateway, 1)
        await pages[0].close()  # it was the first, so it leads
        await produce(embedded, topic, 4, 6)
        for page in pages[1:]:
            await has(page, [1, 2, 3, 4, 5, 6])
        await connections(gateway, 1)


async def test_without_workers_a_page_falls_back_to_election(
    embedded: Site, browser: Browser
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        other_site() as other,
        context(browser) as tabs,
    ):
        other.headers = {"Content-Security-Policy": "worker-src 'none'"}
        other.files["/own/eventstreams.js"] = ("text/javascript", MODULE.read_bytes())
        other.page("")
        pages = [await tabs.new_page() for _ in range(2)]
        for page in pages:
            await page.goto(other.url)
            await follow(page, f"{other.url}own/eventstreams.js", gateway=url_of(gateway))
            await is_open(page)
        await produce(embedded, topic, 1, 3)
        for page in pages:
            await has(page, [1, 2, 3])
        await connections(gateway, 1)


@pytest.mark.parametrize("share", [True, False])
async def test_a_cut_connection_resumes_with_nothing_missing_or_doubled(
    embedded: Site, browser: Browser, share: bool
) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        page = await tab(tabs, gateway, share=share)
        await is_open(page)
        for first in (1, 4):
            await produce(embedded, topic, first, first + 1)
            await has(page, list(range(1, first + 2)))
            gateway.server.drop_connections()
            await produce(embedded, topic, first + 2, first + 2)
            await has(page, list(range(1, first + 3)))
        assert "gap" not in json.dumps(await page.evaluate("said"))
        await said(page, "error", {"name": "ConnectionLost"})


@pytest.mark.parametrize("share", [True, False])
async def test_a_reloaded_tab_goes_on_where_it_was(
    embedded: Site, browser: Browser, share: bool
) -> None:
    topic = await embedded.topic()
    module = "/v2/ui/eventstreams.js"
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        page, other = [await tab(tabs, gateway, share=share) for _ in range(2)]
        await is_open(page)
        await is_open(other)
        await produce(embedded, topic, 1, 3)
        await has(page, [1, 2, 3])
        await page.goto("about:blank")
        await produce(embedded, topic, 4, 6)
        await has(other, [1, 2, 3, 4, 5, 6])
        await page.goto(url_of(gateway, "/robots.txt"))
        await follow(page, module, share=share)
        await produce(embedded, topic, 7, 7)
        await has(page, [4, 5, 6, 7])
        await page.reload()
        await follow(page, module, share=share, remember=0)
        await is_open(page)
        await produce(embedded, topic, 8, 8)
        await has(page, [8])


async def test_a_tab_far_behind_catches_up_and_then_shares_again(
    embedded: Site, browser: Browser
) -> None:
    topic = await embedded.topic()
    await produce(embedded, topic, 1, 3000)
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        first = await tab(tabs, gateway)
        await is_open(first)
        early = json.dumps([{"topic": topic, "partition": 0, "offset": 10}])
        behind = [await tab(tabs, gateway, lastEventId=early) for _ in range(2)]
        for page in behind:
            await until_true(page, "got.length >= 2990")
        await produce(embedded, topic, 3001, 3003)
        await has(first, [3001, 3002, 3003])
        for page in behind:
            await has(page, list(range(11, 3004)))
            await said(page, "caught-up")
        await connections(gateway, 1)


async def test_each_connection_has_a_ticket_of_its_own(
    embedded: Site, browser: Browser, tmp_path: Path
) -> None:
    topic = await embedded.topic()
    (tmp_path / "secret").write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    streams = {"s": stream_of("s", [topic])._replace(scope="read:s")}
    async with (
        embedded.gateway(streams, access=access) as gateway,
        other_site() as other,
        context(browser) as tabs,
    ):
        page = await tab_of(other, tabs, gateway)
        await said(page, "error", {"name": "Unauthorized"})
        assert await page.evaluate("connection.state") == "refused"
        with_tickets = FOLLOW.replace("{ connect }", "{ connect, requestTicket }").replace(
            "...options,",
            """ticket: () => {
              tickets += 1;
              return requestTicket(options.gateway, options.token);
            },""",
        )
        token = secret_token(scope="read:s")
        await page.evaluate("globalThis.tickets = 0")
        module, gateway_url = url_of(gateway, "/v2/ui/eventstreams.js"), url_of(gateway)
        options = {"gateway": gateway_url, "token": token}
        await page.evaluate(with_tickets, [module, "s", options])
        await is_open(page)
        await produce(embedded, topic, 1, 1)
        await has(page, [1])
        gateway.server.drop_connections()
        await produce(embedded, topic, 2, 2)
        await has(page, [1, 2])
        assert await page.evaluate("tickets") == 2
        await page.evaluate("connection.close()")
        bad = {**options, "token": secret_token(b"x" * 32, scope="read:s")}
        await page.evaluate(with_tickets, [module, "s", bad])
        await said(page, "error", {"name": "Unauthorized", "message": "Invalid token signature"})
        assert await page.evaluate("connection.state") == "refused"


class Scripted:
    """A server that answers each request with the same bytes, and counts the requests."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.requests = 0
        self.asked = asyncio.Condition()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        writer.write(f"{head}Access-Control-Allow-Origin: *\r\n\r\n".encode() + self.body)
        await writer.drain()
        writer.close()
        async with self.asked:
            self.requests += 1
            self.asked.notify_all()

    async def until(self, requests: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self.asked:
            await self.asked.wait_for(lambda: self.requests == requests)


async def test_the_time_that_a_server_names_passes_before_the_next_connection(
    browser: Browser,
) -> None:
    scripted = Scripted(b'data: {"n": 1}\nid: [1]\n\nretry: 45000\n')
    server = await asyncio.start_server(scripted.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, other_site() as other, context(browser) as tabs:
        other.files["/eventstreams.js"] = ("text/javascript", MODULE.read_bytes())
        other.page("")
        page = await tabs.new_page()
        await page.clock.install(time=0)
        await page.goto(other.url)
        await page.clock.pause_at(3_600_000)
        options = {"gateway": f"http://127.0.0.1:{port}", "share": False}
        await follow(page, f"{other.url}eventstreams.js", **options)
        waits = "said.filter(([, state]) => state === 'waiting').length"
        for connection in range(1, 4):
            await scripted.until(connection)
            await until_true(page, f"{waits} === {connection}")
            await page.clock.run_for(44_900)
            assert scripted.requests == connection
            assert await page.evaluate("connection.state") == "waiting"
            await page.clock.run_for(200)


async def test_a_permanent_refusal_is_reported_and_not_retried(
    embedded: Site, browser: Browser
) -> None:
    async with (
        embedded.gateway({"other": [await embedded.topic()]}) as gateway,
        context(browser) as tabs,
    ):
        page = await tab(tabs, gateway)
        await said(page, "error")
        [[_, error]] = await page.evaluate("said.filter(([kind]) => kind === 'error')")
        assert (error["status"], error["final"]) == (400, True)
        assert await page.evaluate("connection.state") == "refused"


async def test_a_bounded_stream_ends_once(embedded: Site, browser: Browser) -> None:
    topic = await embedded.topic()
    await produce(embedded, topic, 1, 5)
    async with embedded.gateway({"s": [topic]}) as gateway, context(browser) as tabs:
        page = await tab(tabs, gateway, query={"since": "earliest", "limit": 3})
        await until_true(page, "connection.state === 'ended'")
        await has(page, [1, 2, 3])


PARSED = """async ([module, chunks]) => {
  const { connect } = await import(module);
  const bytes = new TextEncoder();
  let opened = 0;
  globalThis.fetch = async () => {
    if (opened++) return new Response(null, { status: 204 });
    const body = new ReadableStream({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(bytes.encode(chunk));
        controller.close();
      },
    });
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  };
  const events = [];
  let connection;
  await new Promise((resolve) => {
    connection = connect('s', {
      share: false,
      onEvents: (some) => events.push(...some.map(({ id, text }) => [id, text])),
      onState: ({ state }) => state === 'ended' && resolve(),
    });
  });
  return [events, connection.lastEventId];
}"""
TEXT = (
    ": comment\r\nretry: 1\r\n\r\ndata: a\rid: 1\r\rdata: b\ndata:  c\nid: 2\nevent: message\n\n"
    "id: 3\r\n\r\ndata\n\nid: x\0\ndata: ä€\n\nnothing: of\nit\n\ndata: torn"
)


async def test_a_stream_is_parsed_the_same_wherever_it_is_cut(browser: Browser) -> None:
    async with other_site() as other, context(browser) as tabs:
        other.files["/eventstreams.js"] = ("text/javascript", MODULE.read_bytes())
        other.page("")
        page = await tabs.new_page()
        for size in (1, 2, 3, 7, 1000):
            chunks = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
            await page.goto(other.url)
            await page.evaluate("sessionStorage.clear()")
            events, last = await page.evaluate(PARSED, [f"{other.url}eventstreams.js", chunks])
            assert events == [["1", "a"], ["2", "b\n c"], ["3", ""], ["3", "ä€"]]
            assert last == "3"


async def test_the_snippet_of_the_documentation_runs_on_another_site(
    embedded: Site, browser: Browser
) -> None:
    topic = await embedded.topic()
    [snippet] = re.findall(r"```html\n(.*?)```", (ROOT / "docs/browser.md").read_text(), re.DOTALL)
    async with (
        embedded.gateway({"recentchange": [topic]}) as gateway,
        other_site() as other,
        context(browser) as tabs,
    ):
        other.page(snippet.replace("http://127.0.0.1:8092", url_of(gateway, "")))
        page = await tabs.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(error.message))
        await page.goto(other.url)
        await expect(page.get_by_role("status")).to_have_text("open", timeout=PATIENCE_MS)
        await embedded.produce(topic, {"title": "A <b>title</b>"})
        item = page.get_by_role("listitem")
        await expect(item).to_have_text("A <b>title</b>", timeout=PATIENCE_MS)
    assert problems == []
