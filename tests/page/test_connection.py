"""Time travel, resuming, and what the page says of its connection."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from eventstreams.config.settings import AccessSettings, LimitSettings
from tests.support.gateway import Site, stream_of
from tests.support.issuer import SECRET, secret_token
from tests.support.page import STREAMS, THINGS, Shown, iso, showing, thing
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def at(n: int, ago_s: float) -> dict[str, object]:
    """Return an event that happened some time ago."""
    event = thing(n)
    return {**event, "meta": {**event["meta"], "dt": iso(time.time() - ago_s)}}


async def numbers(shown: Shown) -> list[int]:
    """Return the number of each event that the page has received, in order."""
    found: list[int] = await shown.page.evaluate("window.received")
    return found


RECORD = """
  window.received = [];
  const parse = JSON.parse;
  JSON.parse = (text, ...rest) => {
    const value = parse(text, ...rest);
    if (!rest.length && value?.$schema === '/thing/1.0.0') window.received.push(value.n);
    return value;
  };
"""
"""Records each event that the page reads, whether it is on show or not."""


async def make_cuts_last(page: Page) -> None:
    """Keep the connection cut until the test makes the page reconnect, however slow the test is."""

    async def longer(route: Route) -> None:
        text = await (await route.fetch()).text()
        cut = "const CUT_MS = 4000;"
        assert cut in text
        body = text.replace(cut, "const CUT_MS = 4_000_000;")
        await route.fulfill(body=body, content_type="text/javascript")

    await page.route("**/app.js*", longer)


async def has_all(shown: Shown, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(await numbers(shown)) < count:
            await asyncio.sleep(0.02)
    assert await numbers(shown) == list(range(count))


async def test_a_replay_at_full_speed_joins_live_events_without_a_jump(shown: Shown) -> None:
    await shown.page.add_init_script(RECORD)
    for n in range(200):
        await shown.produce(at(n, 3600 - n), ago_s=3600 - n)
    await shown.open(since="earliest")
    for n in range(200, 260):
        await shown.produce(thing(n))
    await has_all(shown, 260)
    await shown.is_live()
    await expect(shown.page.locator("#notices")).to_contain_text(
        "The replay has reached the present."
    )


async def test_a_replay_at_its_own_pace_keeps_the_distances_of_events(shown: Shown) -> None:
    await shown.produce(*(at(n, 3600 - 2 * n) for n in range(3)), ago_s=3600)
    began = time.monotonic()
    await shown.open(since="earliest", speed="1")
    await shown.shows(1, "2", "1", "0")
    assert time.monotonic() - began > 3.9


async def test_a_faster_replay_is_faster_by_that_factor(shown: Shown) -> None:
    await shown.produce(*(at(n, 3600 - 10 * n) for n in range(4)), ago_s=3600)
    began = time.monotonic()
    await shown.open(since="earliest", speed="10")
    await shown.shows(1, "3", "2", "1", "0")
    assert time.monotonic() - began > 2.9


async def test_a_slow_replay_reaches_live_events_once_it_runs_at_full_speed(shown: Shown) -> None:
    await shown.page.add_init_script(RECORD)
    await shown.produce(*(at(n, 86400 - 3600 * n) for n in range(5)), ago_s=86400)
    await shown.open(since="earliest", speed="1")
    await shown.shows(1, "0")
    await expect(shown.page.locator("#state")).to_have_text("Replay")
    await expect(shown.page.locator("#more")).to_contain_text(re.compile("24 h behind"))
    await shown.produce(thing(5))
    await shown.page.get_by_role("button", name="Full speed").click()
    await shown.is_live()
    await has_all(shown, 6)
    assert "speed" not in shown.page.url


async def test_a_changed_request_shows_no_events_of_the_replay_before(shown: Shown) -> None:
    await shown.produce(*(at(n, 86400 - 3600 * n) for n in range(5)), ago_s=86400)
    await shown.open(since="earliest", speed="1")
    await shown.shows(1, "0")
    await shown.page.fill("#filter", "event.n == 3")
    await shown.page.keyboard.press("Enter")
    await shown.shows(1, "3")


async def test_a_paused_replay_continues_where_it_stopped(shown: Shown) -> None:
    await shown.page.add_init_script(RECORD)
    await shown.page.clock.install()
    await shown.produce(*(at(n, 3600 - 100 * n) for n in range(5)), ago_s=3600)
    await shown.open(since="earliest", speed="1")
    await shown.shows(1, "0")
    state, pause = shown.page.locator("#state"), shown.page.locator("#pause")
    await pause.click()
    await expect(state).to_have_text("Paused")
    reached = await shown.page.inner_text("#more")
    await shown.page.clock.run_for(250_000)
    await expect(pause).to_have_text("Resume")
    assert reached == await shown.page.inner_text("#more")
    assert await numbers(shown) == [0, 1]  # the second waits until it is due
    await pause.click()
    await expect(state).to_have_text("Replay")
    await shown.page.clock.run_for(100_000)
    await shown.shows(1, "1", "0")


async def test_a_replay_holds_no_more_than_the_gateway_may_send_at_once(shown: Shown) -> None:
    await shown.page.add_init_script(RECORD)
    text = "x" * 1000
    for n in range(40):
        await shown.produce(*(at(40 * n + i, 86400 - n) | {"t": text} for i in range(500)))
    await shown.open(since="earliest", speed="1")
    await expect(shown.page.locator("#state")).to_have_text("Replay")
    for _ in range(20):  # time in which it would read on
        await shown.page.evaluate("fetch('/v2/explain?streams=things').then((it) => it.text())")
    # An hour's worth is stored; the page takes what is due and the piece that it is reading.
    assert len(await numbers(shown)) < 5000


async def test_events_from_an_open_row_on_are_replayed(shown: Shown) -> None:
    await shown.produce(*(at(n, 100 - n) for n in range(6)), ago_s=0)
    await shown.site.produce(THINGS)
    await shown.open()
    await shown.opened("thing 3")
    await shown.page.get_by_role("button", name="Replay from here").click()
    await expect(shown.page.locator("#since summary")).not_to_contain_text("Now, live")
    assert "since=20" in shown.page.url
    await expect(shown.page.locator("#state")).to_have_text("Replay")
    buttons = shown.page.locator("#speeds")
    await expect(buttons.get_by_role("button", pressed=True)).to_have_text(
        "1\N{MULTIPLICATION SIGN}"
    )


async def test_a_picked_time_is_replayed_at_ten_times_its_speed_and_again_on_request(
    shown: Shown,
) -> None:
    await shown.produce(*(at(n, 250 - 10 * n) for n in range(3)), ago_s=0)
    await shown.open()
    await shown.page.click("#since summary")
    await shown.page.get_by_role("button", name="The oldest event kept").first.click()
    await expect(shown.page.locator("#state")).to_have_text("Replay")
    buttons = shown.page.locator("#speeds")
    await expect(buttons.get_by_role("button", pressed=True)).to_have_text(
        "10\N{MULTIPLICATION SIGN}"
    )
    await buttons.get_by_role("button", name="Full speed").click()
    await shown.is_live()
    await buttons.get_by_role("button", name="1\N{MULTIPLICATION SIGN}", exact=True).click()
    await expect(shown.page.locator("#state")).to_have_text("Replay")
    await shown.shows(1, "0")


async def test_a_cut_connection_resumes_with_nothing_missing(shown: Shown) -> None:
    await make_cuts_last(shown.page)
    await shown.page.add_init_script(RECORD)
    await shown.produce(*(thing(n) for n in range(10)))
    await shown.open()
    await shown.is_live()
    await shown.page.get_by_role("button", name="Cut the connection").click()
    await expect(shown.page.locator("#state")).to_have_text("Connection cut")
    await expect(shown.page.locator("#more")).to_contain_text("reconnecting in")
    await shown.produce(*(thing(n) for n in range(10, 47)))
    await shown.followed(47)
    await shown.page.get_by_role("button", name="Reconnect now").click()
    await expect(shown.page.locator("#notices")).to_contain_text(
        re.compile(
            r"Resumed after .* s: 37 events arrived in the meantime; none is missing, none arrived"
        )
    )
    await shown.is_live()
    await has_all(shown, 47)
    await shown.page.get_by_role("button", name="Cut the connection").click()
    await expect(shown.page.locator("#state")).to_have_text("Connection cut")
    await expect(shown.page.locator(".notice")).to_have_count(0)  # it would not be true any more


async def test_a_gateway_that_restarts_is_waited_for(page: Page, embedded: Site) -> None:
    await page.add_init_script(RECORD)
    async with showing(page, embedded) as shown:
        await shown.produce(*(thing(n) for n in range(5)))
        await shown.open()
        await shown.is_live()
        await shown.served.server.drain()
        await expect(page.locator("#state")).to_have_text(
            re.compile("^(Connection lost|The gateway has ended the connection)$")
        )


async def test_a_request_is_repeated_until_the_gateway_answers(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.open()
    await shown.is_live()
    state, page = shown.page.locator("#state"), shown.page
    for again in ("by itself", "by button"):
        await page.route("**/v2/explain?*", lambda route: route.abort())
        await page.fill("#filter", f"event.n == 1 && '{again}' != ''")
        await page.keyboard.press("Enter")
        await expect(state).to_have_text("Not connected")
        await expect(page.locator("#more")).to_contain_text("reconnecting in")
        await expect(page.locator(".empty")).to_contain_text("The page retries automatically.")
        await page.unroute("**/v2/explain?*")
        if again == "by button":
            await page.get_by_role("button", name="Reconnect now").click()
        await expect(shown.row("thing 1")).to_be_visible()
        await shown.is_live()


async def test_a_page_that_cannot_read_the_streams_tries_again(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.page.route("**/v2/streams", lambda route: route.fulfill(status=503))
    await shown.open()
    await expect(shown.page.locator("#state")).to_have_text("Not connected")
    await shown.page.unroute("**/v2/streams")
    await shown.is_live()
    await expect(shown.row("thing 1")).to_be_visible()


async def test_a_range_without_events_says_so(shown: Shown) -> None:
    await shown.produce(thing(1))
    empty = shown.page.locator(".empty")
    for filter_, text in (
        ("", "This range has no events."),
        ("event.n == 1", "No event in this range matches this filter."),
    ):
        await shown.open(until="2020-01-01", filter=filter_)
        await expect(shown.page.locator("#state")).to_have_text("Ended")
        await expect(empty).to_contain_text(text)


async def test_a_gap_is_explained_in_words(page: Page, embedded: Site) -> None:
    # A tail that holds next to nothing, so that what the log has lost is lost.
    small = {"tail_bytes_max": 1, "block_bytes": 2000, "batch_bytes_max": 2000}
    await make_cuts_last(page)
    async with showing(page, embedded, cache_bytes_max=4000, **small) as shown:
        await shown.produce(*(thing(n) for n in range(20)))
        await shown.open()
        await shown.is_live()
        await page.get_by_role("button", name="Cut the connection").click()
        await expect(page.locator("#state")).to_have_text("Connection cut")
        await shown.produce(*(thing(n) for n in range(20, 60)))
        await shown.followed(60)
        await shown.site.forget_before(THINGS, 50)
        await page.get_by_role("button", name="Reconnect now").click()
        await expect(shown.row("thing 59")).to_be_visible()
        notice = page.locator("#notices")
        await expect(notice).to_contain_text(
            "10 events arrived in the meantime; some are no longer"
        )


async def test_too_many_streams_of_one_client_are_reported_and_retried(
    page: Page, embedded: Site
) -> None:
    async with (
        showing(page, embedded, limits=LimitSettings(client_ip_connections=1)) as shown,
        shown.served.stream(THINGS, {"X-Client-IP": "192.0.2.1"}) as other,
    ):
        await page.set_extra_http_headers({"X-Client-IP": "192.0.2.1"})
        await other.opened()
        await shown.open()
        await expect(page.locator("#state")).to_contain_text("Connection lost")
        await expect(page.locator("#more")).to_contain_text("reconnecting in")


async def test_a_stream_that_needs_a_token_is_read_with_one(
    page: Page, embedded: Site, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    closed = stream_of(THINGS, [THINGS])._replace(schema_title=None, scope="read:things")
    async with showing(page, embedded, {**STREAMS, THINGS: closed}, access=access) as shown:
        await shown.produce(thing(1))
        await shown.open()
        await expect(page.locator("#state")).to_have_text("Access denied")
        await page.get_by_label("These streams need a token").fill(
            secret_token(scope="read:things")
        )
        await page.get_by_role("button", name="Use", exact=True).last.click()
        await expect(shown.row("thing 1")).to_be_visible()
        await page.click("#tab-code")
        assert "Authorization: Bearer TOKEN" in await page.inner_text("#code pre")
        assert "read:things" not in page.url


async def test_an_unknown_stream_is_reported(shown: Shown) -> None:
    await shown.open(streams="nothing")
    await expect(shown.page.locator("#state")).to_have_text("Request refused")
    await expect(shown.page.locator("#explained")).to_contain_text("nothing")


async def test_eight_tabs_are_live_at_once_over_one_connection(page: Page, embedded: Site) -> None:
    """A browser opens six connections to a host."""
    async with showing(page, embedded) as shown:
        tabs = [shown]
        for _ in range(7):
            tabs.append(Shown(await page.context.new_page(), shown.served, shown.site))
        for tab in tabs:
            await tab.open()
            await tab.is_live()
        await shown.produce(thing(1))
        for tab in tabs:
            await expect(tab.row("thing 1")).to_be_visible()
        await shown.served.until("clients", 1)
        for tab in tabs[1:]:
            await tab.page.close()
