"""The page of live events: streams, rows and figures."""

from __future__ import annotations

import asyncio
import json

import pytest
from playwright.async_api import Page, expect

from tests.support.gateway import Site, stream_of
from tests.support.page import CHANGES, EMPTY, STREAMS, THINGS, Shown, change, showing, thing
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def test_the_list_of_streams_says_what_each_is_and_when_it_last_had_an_event(
    shown: Shown,
) -> None:
    await shown.produce(thing(1), ago_s=7200)
    await shown.open()
    entry = shown.page.locator("#streams li").filter(has_text=THINGS)
    await expect(entry).to_contain_text("Of the sea.")
    await expect(entry).to_contain_text("2 h ago")
    await expect(shown.page.locator("#streams li").filter(has_text=EMPTY)).to_contain_text(
        "No events yet"
    )


async def test_a_busy_stream_has_a_line_of_its_rate(shown: Shown) -> None:
    activity = {"step_seconds": 10, "streams": {THINGS: {"newest": None, "events": [0, 20, 40]}}}
    await shown.page.route(
        "**/v2/streams/activity", lambda route: route.fulfill(body=json.dumps(activity))
    )
    await shown.open()
    line = shown.page.get_by_role("img", name="2.0 events per second recently")
    await expect(line).to_be_visible()


async def test_search_finds_streams_by_the_words_of_their_descriptions(shown: Shown) -> None:
    await shown.open()
    entries = shown.page.locator("#streams li:visible")
    await expect(entries).to_have_count(3)
    await shown.page.fill("#search", "wikis recent")
    await expect(entries).to_have_count(1)
    await shown.page.fill("#search", "unicorns")
    await expect(entries).to_have_count(0)
    await expect(shown.page.locator("#found")).to_have_text(
        "No stream has these words in its name or description."
    )


async def test_a_click_on_a_stream_shows_it_and_changes_the_address(shown: Shown) -> None:
    await shown.produce(change(7), topic=CHANGES)
    await shown.open()
    await shown.page.get_by_role("button", name="Recent changes of the wikis.").click()
    await expect(shown.row("Page 7")).to_be_visible()
    assert shown.page.url.endswith(f"#?streams={CHANGES}")
    await shown.page.go_back()
    await expect(shown.page.locator("h1")).to_have_text(THINGS)


async def test_columns_come_from_the_data_without_a_schema(shown: Shown) -> None:
    await shown.produce(thing(1, tags=["a"], inner={"state": "wet"}))
    await shown.open()
    await expect(shown.row("thing 1")).to_be_visible()
    assert await shown.titles() == ["Time", "n", "name", "inner.state"]
    assert (await shown.cells())[0][1:] == ["1", "thing 1", "wet"]


async def test_columns_come_from_the_schema_while_there_are_no_events(shown: Shown) -> None:
    await shown.open(streams=EMPTY)
    await shown.is_live()
    await expect(shown.page.get_by_text("No events yet.")).to_be_visible()
    assert await shown.titles() == ["Time", "test"]
    await expect(shown.page.locator(".values p")).to_have_text("")


async def test_a_stream_chooses_its_columns_with_display_fields(page: Page, embedded: Site) -> None:
    chosen = stream_of(THINGS, [THINGS])._replace(display_fields=("name", "meta.id", "none"))
    async with showing(page, embedded, {THINGS: chosen}) as shown:
        await shown.produce(thing(1))
        await shown.open()
        await expect(shown.row("thing 1")).to_be_visible()
        assert await shown.titles() == ["Time", "name", "meta.id", "none"]
        assert (await shown.cells())[0][1:] == ["thing 1", "id-1", ""]


async def test_a_recent_change_is_a_readable_line(shown: Shown) -> None:
    await shown.produce(
        change(1, bot=True, minor=True, comment="fix typo"),
        change(2, type="new", length={"old": None, "new": 12}, wiki="dewiki"),
        change(3, length={"old": 600, "new": 5}, title_url="javascript:alert(1)"),
        change(4, title_url="https://en.wikipedia.example/wiki/Page_4"),
        topic=CHANGES,
    )
    await shown.open(streams=CHANGES)
    await expect(shown.row("Page 4")).to_be_visible()
    assert await shown.titles() == ["Time", "Wiki", "Page", "Bytes", "User", "Comment"]
    assert [cells[1:] for cells in await shown.cells()][1:] == [
        ["enwiki", "Page 3", "\N{MINUS SIGN}595", "Ada Quill", "copyedit"],
        ["dewiki", "new Page 2", "+12", "Ada Quill", "copyedit"],
        ["enwiki", "minor bot Page 1", "+1,250", "Ada Quill", "fix typo"],
    ]
    link = shown.row("Page 1").get_by_role("link")
    assert await link.get_attribute("href") == "https://en.wikipedia.org/wiki/Page_1"
    for page in ("Page 3", "Page 4"):  # a script, and a host that does not exist
        assert await shown.row(page).get_by_role("link").count() == 0


@pytest.mark.parametrize("width", [390, 1280, 1920])
async def test_numbers_are_never_cut(shown: Shown, width: int) -> None:
    await shown.page.set_viewport_size({"width": width, "height": 800})
    await shown.produce(
        *(change(n, user=f"192.0.2.{n}", comment="a long comment " * 9) for n in range(30)),
        topic=CHANGES,
    )
    await shown.open(streams=CHANGES)
    await shown.is_live()
    await expect(shown.row("Page 29")).to_be_visible()
    await shown.produce(change(30, length={"old": 3_000_000, "new": 47_985}), topic=CHANGES)
    await expect(shown.row("Page 30")).to_be_visible()
    cut = await shown.page.evaluate(
        """() => [...document.querySelectorAll('.row:not([hidden]) > *')]
          .filter((cell) => !/long comment|^Page/.test(cell.textContent))
          .filter((cell) => cell.scrollWidth > cell.clientWidth)
          .map((cell) => cell.textContent)"""
    )
    assert cut == []


async def test_several_streams_are_read_at_once_each_with_its_own_fields(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.produce(change(2), topic=CHANGES)
    await shown.open()
    await shown.page.get_by_label(f"Also read {CHANGES}").check()
    await expect(shown.row("Page 2")).to_contain_text(CHANGES)
    await expect(shown.row("thing 1")).to_contain_text(THINGS)
    await expect(shown.row("thing 1")).to_contain_text("name thing 1")
    await expect(shown.page.locator("h1")).to_have_text(f"{THINGS} + {CHANGES}")
    await shown.page.get_by_label(f"Also read {THINGS}").uncheck()
    await expect(shown.page.locator("h1")).to_have_text(CHANGES)


async def test_an_alias_in_the_address_is_understood(shown: Shown) -> None:
    await shown.produce(change(2), topic=CHANGES)
    await shown.open(streams="recentchange")
    await expect(shown.row("Page 2")).to_be_visible()
    assert "Page" in await shown.titles()


async def test_a_quiet_stream_shows_its_newest_stored_events(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(300)))
    await shown.open()
    await shown.is_live()
    await expect(shown.row("thing 299")).to_be_visible()
    await shown.produce(thing(300))
    await expect(shown.row("thing 300")).to_be_visible()
    numbers = [int(cells[1]) for cells in await shown.cells()]
    assert numbers == list(range(300, 300 - len(numbers), -1))


async def test_stored_events_are_looked_for_further_back_where_a_filter_is_narrow(
    shown: Shown,
) -> None:
    await shown.produce(*(thing(n) for n in range(900)))
    await shown.open(filter="event.n % 100 == 0")
    await shown.shows(1, *(str(n) for n in range(800, -1, -100)))


async def test_the_document_holds_a_fixed_number_of_rows(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(1500)))
    await shown.open(since="earliest")
    await expect(shown.row("thing 1499")).to_be_visible()
    in_document = shown.page.locator(".canvas > .row")
    count = await in_document.count()
    assert count < 40
    events = shown.page.locator("#events")
    await events.evaluate("(list) => { list.scrollTop = list.scrollHeight; }")
    await expect(shown.row("thing 500")).to_be_visible()  # of 1,500 events, it holds 1,000
    assert await in_document.count() == count
    numbers = [int(cells[1]) for cells in await shown.cells()]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 500


async def test_a_pointer_over_the_rows_pauses_and_a_button_resumes(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.open()
    await shown.is_live()
    await shown.row("thing 1").hover()
    await expect(shown.page.locator("#state")).to_have_text("Paused")
    await shown.produce(*(thing(n) for n in range(2, 39)))
    await expect(shown.page.locator("#pause")).to_have_text("Resume · 37 new")
    assert len(await shown.cells()) == 1
    await shown.page.click("#pause")
    await expect(shown.row("thing 38")).to_be_visible()
    await shown.is_live()


async def test_leaving_the_rows_resumes(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.open()
    await shown.is_live()
    await shown.row("thing 1").hover()
    await expect(shown.page.locator("#state")).to_have_text("Paused")
    await shown.page.hover("h1")
    await shown.is_live()


async def test_a_row_stays_open_while_events_come_and_shows_its_document(shown: Shown) -> None:
    text = '{"n": 12345678901234567890, "deep": {"a": {"b": {"c": [1, 2]}}}, "name": "wide"}'
    await shown.site.produce(THINGS, text.encode())
    await shown.open()
    document = await shown.opened("wide")
    await shown.page.hover("h1")
    await shown.produce(*(thing(n) for n in range(50)))
    await expect(shown.page.locator("#pause")).to_have_text("Resume · 50 new")
    await expect(document.locator(".value.bigint")).to_have_text("12345678901234567890")
    folded = document.locator("details:not([open]):visible")
    await expect(folded).to_have_count(1)
    await expect(folded).to_contain_text("1 field")
    assert "Resume" in (await shown.page.inner_text("#pause"))
    await shown.page.get_by_role("button", name="Copy JSON").click()
    copied = await shown.page.evaluate("navigator.clipboard.readText()")
    assert json.loads(copied)["n"] == 12345678901234567890
    await shown.page.keyboard.press("Escape")
    await expect(document).to_be_hidden()
    await shown.page.click("#pause")
    await expect(shown.row("thing 49")).to_be_visible()


async def test_rows_after_an_open_one_lie_below_its_document(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(20)))
    await shown.open()
    await shown.opened("thing 18")
    detail = shown.page.locator(".detail")
    await expect(detail).to_be_visible()

    async def below() -> bool:
        box, row = await detail.bounding_box(), await shown.row("thing 17").bounding_box()
        return bool(box and row and abs(row["y"] - box["y"] - box["height"]) < 2)

    async with asyncio.timeout(PATIENCE_S):
        while not await below():
            await asyncio.sleep(0.02)


HOLD = """
  const ask = window.requestAnimationFrame;
  const held = [];
  window.holdDrawings = () => { window.isHeld = true; };
  window.releaseDrawings = () => { window.isHeld = false; held.splice(0).forEach(ask); };
  window.requestAnimationFrame = (draw) => (window.isHeld ? held.push(draw) : ask(draw));
"""
"""Lets a test keep the page from drawing while events arrive."""


@pytest.mark.parametrize("device", ["mouse", "finger"])
async def test_a_row_opens_where_it_was_drawn_though_newer_events_have_arrived(
    shown: Shown, device: str
) -> None:
    await shown.page.add_init_script(HOLD)
    await shown.produce(*(thing(n) for n in range(20)))
    await shown.open()
    await shown.is_live()
    row = shown.row("thing 17")
    before = await row.bounding_box()
    await shown.page.evaluate("holdDrawings()")
    await shown.produce(*(thing(n) for n in range(20, 50)))
    await expect(shown.page.locator(".values p")).to_contain_text("The newest 50 events")
    if device == "mouse":
        await row.click(position={"x": 200, "y": 10})
    else:
        await row.evaluate("(row) => row.click()")
    await shown.page.evaluate("releaseDrawings()")
    detail = shown.page.locator(".detail")
    await expect(detail).to_contain_text('"thing 17"')
    opened = shown.page.locator(".row.open")
    await expect(opened).to_contain_text("thing 17")
    await expect(shown.page.locator("#pause")).to_have_text("Resume · 30 new")
    row_box, detail_box = await opened.bounding_box(), await detail.bounding_box()
    assert row_box
    assert detail_box
    assert row_box == before
    assert abs(detail_box["y"] - row_box["y"] - row_box["height"]) < 1
    await shown.page.keyboard.press("Escape")
    await expect(detail).to_be_hidden()


async def test_arrow_keys_go_through_the_rows_and_enter_opens_one(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(100)))
    await shown.open()
    await shown.is_live()
    await shown.page.locator("#pause").focus()
    await shown.page.keyboard.press("Tab")
    await expect(shown.page.locator("#state")).to_have_text("Paused")
    for _ in range(40):
        await shown.page.keyboard.press("ArrowDown")
    await shown.page.keyboard.press("Enter")
    await expect(shown.page.locator(".detail")).to_contain_text('"thing 59"')
    await shown.page.keyboard.press("Escape")
    focused = shown.page.locator(".row:has(:focus)")
    await expect(focused).to_contain_text("thing 59")


async def test_tab_goes_from_an_open_row_into_its_document(shown: Shown) -> None:
    await shown.produce(*(change(n) for n in range(30)), topic=CHANGES)
    await shown.open(streams=CHANGES)
    await shown.is_live()
    await shown.row("Page 27").locator(".toggle").focus()
    await shown.page.keyboard.press("Enter")
    await expect(shown.page.locator(".detail")).to_be_visible()
    focused = "document.activeElement.textContent"
    reached: list[str] = []
    for _ in range(30):
        await shown.page.keyboard.press("Tab")
        reached.append(await shown.page.evaluate(focused))
    assert reached[:3] == ["Page 27", "Copy JSON", "Replay from here"]
    assert '"Page 27"' in reached
    assert not {f"Page {n}" for n in range(27)} & {*reached}


async def test_rows_that_stay_in_sight_keep_their_elements_while_scrolling(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(90)))
    await shown.open()
    await shown.is_live()
    await shown.row("thing 80").locator(".toggle").focus()
    events = shown.page.locator("#events")
    for top in (34 * 8, 34 * 3, 34 * 6):
        await events.evaluate("(list, top) => { list.scrollTop = top; }", top)
        await expect(shown.row(f"thing {90 - top // 34 - 5}")).to_be_visible()
        await expect(shown.page.locator(".row:has(:focus)")).to_contain_text("thing 80")
        numbers = [int(text) for text in await shown.read_aloud(3)]
        assert numbers == sorted(numbers, reverse=True)


async def test_top_values_count_a_field_and_a_click_narrows_the_request(shown: Shown) -> None:
    await shown.produce(
        *(thing(n, colour="red" if n % 4 else "it's blue") for n in range(40)),
    )
    await shown.open()
    await shown.page.select_option("#top-field", label="colour")
    top = shown.page.locator(".top li")
    await expect(top).to_have_count(2)
    await expect(top.nth(0)).to_contain_text("red")
    await expect(top.nth(0)).to_contain_text("75 %")
    await top.nth(1).get_by_role("button", name="Only it's blue").click()
    await expect(shown.page.locator("#filter")).to_have_value(r"event.colour == 'it\'s blue'")
    await expect(shown.row("thing 39")).to_have_count(0)
    await expect(shown.row("thing 36")).to_be_visible()
    await expect(top).to_have_count(1)  # though the pointer is still over the values
    await shown.page.get_by_role("button", name="Not it's blue").click()
    await expect(shown.page.locator("#filter")).to_have_value(r"event.colour != 'it\'s blue'")
    await expect(shown.row("thing 39")).to_be_visible()
    await expect(top).to_have_count(1)
    await expect(top).to_contain_text("red")
    await expect(shown.page.locator(".values p")).to_have_text("The newest 30 events")


async def test_a_filter_that_matches_nothing_stored_is_named_and_can_be_cleared(
    shown: Shown,
) -> None:
    await shown.produce(*(thing(n) for n in range(40)))
    await shown.open(filter="event.n > 100")
    await expect(shown.page.locator(".empty")).to_contain_text(
        "None of the newest 40 events matches this filter."
    )
    await shown.page.get_by_role("button", name="Clear the filter").click()
    await expect(shown.row("thing 39")).to_be_visible()


async def test_the_chart_shows_the_rate_of_live_events(shown: Shown) -> None:
    await shown.open()
    await shown.is_live()
    await shown.produce(*(thing(n) for n in range(60)))
    drawn_events = """() => {
        const peak = document.querySelector(".rate .muted").textContent.match(/peak (\\d+)/);
        const line = document.querySelector(".rate .line").getAttribute("d") ?? "";
        const heights = [...line.matchAll(/ (\\d+\\.\\d)/g)].map(([, y]) => (59 - y) / 56);
        return peak && line ? heights.reduce((sum, part) => sum + part, 0) * peak[1] : 0;
    }"""
    # The machine decides in how many seconds the events arrive, so their sum is compared.

    async def all_are_drawn() -> bool:
        return round(await shown.page.evaluate(drawn_events)) == 60

    await until(all_are_drawn)


async def test_the_rate_of_live_events_leaves_out_the_replay_before(shown: Shown) -> None:
    await shown.page.clock.install()
    await shown.produce(*(thing(n) for n in range(200)))
    await shown.open(since="earliest")
    await shown.is_live()
    await expect(shown.row("thing 199")).to_be_visible()
    await shown.page.clock.run_for(5000)
    await expect(shown.page.locator(".rate figcaption")).to_have_text(
        "0 events/speak 0/s in the last minute"
    )


async def test_a_page_without_a_choice_shows_the_stream_that_was_used_last(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.page.goto(f"http://127.0.0.1:{shown.served.port}/")
    await expect(shown.row("thing 1")).to_be_visible()
    assert set(STREAMS) > {THINGS}
