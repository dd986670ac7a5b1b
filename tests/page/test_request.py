"""The request builder of the page, and the request as code and as a link."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from playwright.async_api import expect

from tests.support.page import CHANGES, EMPTY, THINGS, Shown, change, thing
from tests.support.programs import GO_PATIENCE_S, needed, output

pytestmark = pytest.mark.anyio


def asked(shown: Shown) -> dict[str, str]:
    """Return the request that the page's address holds."""
    return {name: value for name, [value] in parse_qs(shown.page.url.partition("#?")[2]).items()}


async def test_a_click_on_a_value_requests_only_this_or_not_this(shown: Shown) -> None:
    await shown.produce(*(thing(n, inner={"in": f"place '{n % 2}"}) for n in range(6)))
    await shown.open()
    document = await shown.opened("thing 5")
    await document.get_by_role("button", name="place '1").click()
    await shown.page.get_by_role("menuitem", name="Not this").click()
    assert asked(shown)["filter"] == r"event.inner['in'] != 'place \'1'"
    await shown.shows(1, "4", "2", "0")
    document = await shown.opened("thing 4")
    await document.get_by_role("button", name='"thing 4"').click()
    await shown.page.get_by_role("menuitem", name="Only this").click()
    await shown.shows(1, "4")
    assert asked(shown)["filter"] == r"event.inner['in'] != 'place \'1' && event.name == 'thing 4'"


@pytest.mark.parametrize(
    ("filter_", "condition", "expected"),
    [
        ("event.a == 'x'", "event.a == 'x'", ""),
        ("event.a == 'x'", "event.a == 'y'", "event.a == 'y'"),
        ("event.a == 'x'", "event.a != 'x'", "event.a != 'x'"),
        ("event.a != 'x'", "event.a == 'x'", "event.a == 'x'"),
        ("event.a != 'x'", "event.a != 'y'", "event.a != 'x' && event.a != 'y'"),
        ("event.a != 'x' && event.a != 'y'", "event.a != 'x'", "event.a != 'y'"),
        ("event.n == 1 && event.a == 'x'", "event.a == 'y'", "event.n == 1 && event.a == 'y'"),
        ("event.a == 'x && y'", "event.b == 1", "event.a == 'x && y' && event.b == 1"),
        (
            "event.a == 'x' || !event.b",
            "event.a == 'x'",
            "(event.a == 'x' || !event.b) && event.a == 'x'",
        ),
        (
            "(event.a == 'x' || event.b)",
            "event.c == 1",
            "(event.a == 'x' || event.b) && event.c == 1",
        ),
        (
            "event.a == r'\\' && event.b",
            "event.c == 1",
            "(event.a == r'\\' && event.b) && event.c == 1",
        ),
        ("event['o d'] == 'x'", "event['o d'] != 'x'", "event['o d'] != 'x'"),
    ],
)
async def test_a_condition_replaces_those_on_its_field_or_is_removed(
    shown: Shown, filter_: str, condition: str, expected: str
) -> None:
    await shown.open()
    found = await shown.page.evaluate(
        "async ([a, b]) => (await import('/v2/ui/request.js')).narrowed(a, b)",
        [filter_, condition],
    )
    assert found == expected


async def test_names_of_fields_are_completed_from_the_schema(shown: Shown) -> None:
    await shown.open(streams=CHANGES)
    await shown.is_live()
    await shown.page.locator("#filter").press_sequentially("ti")
    options = shown.page.locator("#suggestions").get_by_role("option")
    await expect(options.first).to_contain_text("event.title")
    await expect(options.first).to_contain_text("Full name of the page")
    await shown.page.keyboard.press("ArrowDown")
    await shown.page.keyboard.press("ArrowUp")
    await shown.page.keyboard.press("Enter")
    await shown.page.locator("#filter").press_sequentially(" == 'ti")
    await expect(options).to_have_count(0)  # within a text nothing is completed
    await shown.page.locator("#filter").press_sequentially("' && event.length.n")
    await expect(options.first).to_contain_text("event.length.new")
    await shown.page.keyboard.press("Tab")
    await expect(shown.page.locator("#filter")).to_have_value(
        "event.title == 'ti' && event.length.new"
    )


async def test_names_of_fields_are_completed_from_the_data_where_there_is_no_schema(
    shown: Shown,
) -> None:
    await shown.produce(thing(1, **{"odd name": 1}))
    await shown.open()
    await expect(shown.row("thing 1")).to_be_visible()
    await shown.page.locator("#filter").press_sequentially("odd")
    await shown.page.get_by_role("option", name="event['odd name']").click()
    await expect(shown.page.locator("#filter")).to_have_value("event['odd name']")


async def test_an_error_in_a_filter_is_underlined_where_it_is(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.open()
    await shown.is_live()
    await shown.page.fill("#filter", "event.n == 1 && nothing")
    explained = shown.page.locator("#explained")
    await expect(explained).to_contain_text("undeclared reference to 'nothing'")
    await expect(explained).to_contain_text("Column 17: ")
    await expect(shown.page.locator("#underline mark")).to_have_text("nothing")
    await expect(shown.page.locator("#filter")).to_have_attribute("aria-invalid", "true")
    mark = await shown.page.locator("#underline mark").bounding_box()
    field = await shown.page.locator("#filter").bounding_box()
    assert mark
    assert field
    width = mark["width"] / len("nothing")
    assert abs(mark["x"] - field["x"] - 16 * width) < 2 * width  # below the 17th character
    await shown.page.fill("#filter", "event.n == 1")
    await expect(explained).to_contain_text("Matches the newest event")
    await expect(shown.page.locator("#underline mark")).to_have_count(0)
    await expect(shown.row("thing 1")).to_be_visible()  # not applied yet, so reading continues


async def top_of(shown: Shown, selector: str) -> float:
    box = await shown.page.locator(selector).bounding_box()
    assert box
    return box["y"]


async def test_a_filter_and_its_errors_move_nothing_below(shown: Shown) -> None:
    await shown.page.set_viewport_size({"width": 1280, "height": 760})
    await shown.produce(thing(1))
    await shown.open()
    await shown.is_live()
    top = await top_of(shown, "#live")
    await shown.page.fill("#filter", "event.n == 1")
    await shown.page.keyboard.press("Enter")
    await shown.is_live()
    await expect(shown.page.locator("#clear")).to_be_visible()
    assert await top_of(shown, "#live") == top
    await shown.page.fill("#filter", "event.n == 1 && nothing == 'thing 1'")
    await expect(shown.page.locator("#explained")).to_contain_text("Column 17: ")
    assert await top_of(shown, "#live") == top


async def test_a_long_error_stays_in_its_line_until_a_button_shows_all_of_it(shown: Shown) -> None:
    await shown.open()
    await shown.is_live()
    top = await top_of(shown, "#live")
    whole = shown.page.get_by_role("button", name="Show all")
    await expect(whole).to_be_hidden()
    await shown.page.fill("#filter", f"event.n == 1 && {'nothing' * 60}")
    await expect(whole).to_be_visible()
    assert await top_of(shown, "#live") == top
    await whole.click()
    less = shown.page.get_by_role("button", name="Show less")
    await expect(less).to_have_attribute("aria-expanded", "true")
    assert await top_of(shown, "#live") > top
    await less.click()
    assert await top_of(shown, "#live") == top
    await shown.page.fill("#filter", "event.n == 1")
    await expect(whole).to_be_hidden()


async def test_a_phone_has_buttons_beside_what_they_belong_to(shown: Shown) -> None:
    await shown.page.set_viewport_size({"width": 390, "height": 844})
    await shown.produce(thing(1))
    await shown.open(filter="event.n == 1", since="earliest", speed="full")
    await shown.is_live()
    assert await top_of(shown, "#clear") == await top_of(shown, "#fields")
    cut = shown.page.get_by_role("button", name="Cut the connection")
    await expect(cut).to_be_visible()
    assert await top_of(shown, "#cut") == await top_of(shown, "#pause")
    await expect(shown.page.get_by_text("Filter", exact=True)).to_be_visible()


async def test_a_link_with_a_wrong_filter_says_what_is_wrong(shown: Shown) -> None:
    await shown.open(filter="event.n = = 1")
    await expect(shown.page.locator("#state")).to_have_text("Invalid filter")
    await expect(shown.page.locator("#explained")).to_contain_text("Column 9: ")
    await shown.page.get_by_role("button", name="Clear the filter").click()
    await shown.is_live()


async def test_the_page_says_which_share_of_events_a_request_gets_and_how_large_it_is(
    shown: Shown,
) -> None:
    await shown.produce(*(thing(n) for n in range(5)), ago_s=10)
    await shown.produce(*(thing(n) for n in range(5, 10)))
    await shown.open(filter="event.n < 5")
    explained = shown.page.locator("#explained")
    await expect(explained).to_contain_text("Matches 5 of the newest 10 events (50 %)")
    await expect(explained).to_contain_text("events/s")
    await expect(explained).to_contain_text("B/s")
    await expect(explained).to_contain_text("B per event")


async def test_fields_narrow_the_events_and_become_the_columns(shown: Shown) -> None:
    await shown.produce(thing(1, colour="red"))
    await shown.open()
    await shown.page.fill("#fields", "name, colour")
    await shown.page.keyboard.press("Enter")
    await expect(shown.row("red")).to_be_visible()
    assert await shown.titles() == ["Time", "name", "colour"]
    document = await shown.opened("red")
    await expect(document.locator(".key")).to_have_text(["name", "colour"])


async def test_a_moment_is_picked_from_a_menu_or_as_a_date(shown: Shown) -> None:
    await shown.produce(thing(1), ago_s=1200)
    await shown.produce(thing(2), ago_s=600)
    await shown.open()
    await shown.page.click("#since summary")
    await shown.page.get_by_role("button", name="Full speed").click()
    await shown.page.get_by_role("button", name="15 minutes ago").first.click()
    await shown.shows(1, "2")
    assert asked(shown)["since"] == "-15m"
    await expect(shown.page.locator("#since summary")).to_contain_text("15 minutes ago")
    await shown.page.click("#since summary")
    await shown.page.get_by_label("From: a date and a time").fill("2020-01-31T12:00:00")
    await shown.page.get_by_role("button", name="Use").first.click()
    await shown.shows(1, "2", "1")
    assert asked(shown)["since"].startswith("2020-01-31T")
    await shown.page.click("#until summary")
    await shown.page.locator("#until").get_by_role("button", name="15 minutes ago").click()
    await shown.shows(1, "1")
    await expect(shown.page.locator("#state")).to_have_text("Ended")


async def test_a_menu_closes_on_escape_and_gives_the_focus_back(shown: Shown) -> None:
    await shown.open()
    await shown.page.click("#since summary")
    await expect(shown.page.locator("#since .panel")).to_be_visible()
    await shown.page.keyboard.press("Escape")
    await expect(shown.page.locator("#since .panel")).to_be_hidden()
    await expect(shown.page.locator("#since summary")).to_be_focused()


async def test_a_link_restores_the_request(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(10)))
    await shown.open(filter="event.n % 2 == 0", fields="n", since="earliest", speed="10")
    await shown.shows(1, "8", "6", "4", "2", "0")
    await expect(shown.page.locator("#filter")).to_have_value("event.n % 2 == 0")
    await expect(shown.page.locator("#fields")).to_have_value("n")
    await expect(shown.page.locator("#since summary")).to_contain_text("The oldest event kept")
    await shown.page.click("#tab-code")
    await shown.page.get_by_role("button", name="Link").click()
    assert await shown.page.inner_text("#code pre") == shown.page.url
    await shown.page.reload()
    await shown.shows(1, "8", "6", "4", "2", "0")


async def test_clear_takes_the_whole_request_back(shown: Shown) -> None:
    await shown.produce(*(thing(n) for n in range(3)))
    await shown.open(filter="event.n == 2", since="earliest")
    await shown.page.get_by_role("button", name="Clear").click()
    await shown.shows(1, "2", "1", "0")
    assert asked(shown) == {"streams": THINGS}


async def code(shown: Shown, kind: str) -> str:
    await shown.page.click("#tab-code")
    await shown.page.get_by_role("button", name=kind, exact=True).click()
    return await shown.page.inner_text("#code pre")


async def test_the_example_of_a_filter_has_a_field_of_the_stream(shown: Shown) -> None:
    await shown.produce(thing(1))
    await shown.open()
    field = shown.page.locator("#filter")
    await expect(field).to_have_attribute("placeholder", "event.n == 1")
    await shown.open(streams=EMPTY)
    await expect(field).to_have_attribute("placeholder", "event.test == '…'")


async def test_curl_has_double_quotes_around_single_ones(shown: Shown) -> None:
    await shown.open(filter="event.wiki == 'dewiki'")
    assert "\"filter=event.wiki == 'dewiki'\"" in await code(shown, "curl")


ODD = r"""event.name in ['it\'s "red"', 'a&b'] && event.n < 3"""


async def odd_events(shown: Shown) -> None:
    await shown.produce(
        *(thing(n, name=name) for n, name in enumerate(['it\'s "red"', "a&b", "no", "a&b"]))
    )
    await shown.open(filter=ODD, since="earliest", until="-0s")
    await shown.shows(1, "1", "0")


async def test_the_request_as_curl_gets_the_same_events(shown: Shown) -> None:
    needed("curl")
    await odd_events(shown)
    text = await code(shown, "curl")
    lines = (await output("sh", "-c", f"{text} -sS")).splitlines()
    found = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [event["n"] for event in found] == [0, 1]


async def test_the_request_as_python_gets_the_same_events(shown: Shown) -> None:
    await odd_events(shown)
    text = await code(shown, "Python")
    lines = (await output(sys.executable, "-c", text)).splitlines()
    assert ["'n': 0" in lines[0], "'n': 1" in lines[1], len(lines)] == [True, True, 2]


async def test_the_request_as_javascript_gets_the_same_events(shown: Shown) -> None:
    await odd_events(shown)
    text = await code(shown, "JavaScript")
    said: list[str] = []
    shown.page.on("console", lambda message: said.append(message.text))
    await shown.page.evaluate(
        """async (text) => {
          const log = console.log;
          const ended = new Promise((resolve) => {
            console.log = (value) => {
              log(JSON.stringify(value));
              if (typeof value === 'string') resolve();
            };
          });
          await Object.getPrototypeOf(async () => {}).constructor(text)();
          await ended;
        }""",
        text,
    )
    numbers = [json.loads(line).get("n") for line in said if line.startswith("{")]
    assert numbers == [0, 1]


async def test_the_request_as_go_compiles_and_gets_the_same_events(
    shown: Shown, tmp_path: Path
) -> None:
    needed("go")
    await odd_events(shown)
    (tmp_path / "main.go").write_text(await code(shown, "Go"))
    command = "go", "run", "main.go"
    lines = (await output(*command, cwd=tmp_path, patience_s=GO_PATIENCE_S)).splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1]


async def test_the_schema_shows_types_descriptions_and_an_example(shown: Shown) -> None:
    await shown.open(streams=EMPTY)
    await shown.page.click("#tab-schema")
    schema = shown.page.locator("#schema")
    await expect(schema).to_contain_text("test/event")
    field = schema.locator("li").filter(has_text="Name of the stream the event belongs to").last
    await expect(field).to_contain_text("stream")
    await expect(field).to_contain_text("required")
    await expect(field).to_contain_text("string")
    limits = field.locator(".description .limits")  # below the description, not below the name
    await expect(limits).to_have_text("not empty")
    await expect(schema.locator(".json")).to_contain_text('"hello"')
    await expect(schema.get_by_role("option")).to_have_text(["latest", "1.0.0"])


async def test_a_stream_without_a_schema_says_so(shown: Shown) -> None:
    await shown.open()
    await shown.page.click("#tab-schema")
    await expect(shown.page.locator("#schema")).to_have_text(
        "No schema is declared for this stream. Events may have any fields."
    )


async def test_a_field_that_the_schema_lacks_is_named_with_the_nearest(shown: Shown) -> None:
    await shown.produce(change(1), topic=CHANGES)
    await shown.open(streams=CHANGES, filter="event.wikki == 'enwiki'")
    await expect(shown.page.locator("#explained")).to_contain_text("did you mean wiki?")
    await expect(shown.page.locator("#explained")).to_have_attribute("data-kind", "warning")
