"""Values that events may contain are stored as they were posted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.intake import Place, event, place

pytestmark = pytest.mark.anyio


def numbers(text: str) -> bytes:
    head = '{"$schema": "/test/numbers/1.0.0", "meta": {"stream": "test.numbers"}, "number": '
    return f"{head}{text}}}".encode()


async def only_value(here: Place, topic: str) -> bytes:
    [record] = await here.events(topic)
    assert record.value is not None
    return record.value


BIG = ["12345678901234567890", "123456789012345678901234567890", "-9007199254740993"]


@pytest.mark.parametrize("text", BIG)
async def test_big_integers_are_kept(tmp_path: Path, text: str) -> None:
    async with place(tmp_path) as here:
        assert (await here.post(numbers(text))).status_code == 201
        assert (await only_value(here, "test.numbers")).endswith(f'"number":{text}}}'.encode())
        assert json.loads(await only_value(here, "test.numbers"))["number"] == int(text)


async def test_big_integers_are_rounded_as_in_upstream(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        assert (await here.post(numbers(BIG[0]))).status_code == 201
        assert b'"number":12345678901234567000' in await only_value(here, "test.numbers")


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1.0", "1"),
        ("100.0", "100"),
        ("-0.0", "0"),
        ("-0", "0"),
        ("1e2", "100"),
        ("1.5E1", "15"),
        ("-1.00e0", "-1"),
        ("1e20", "100000000000000000000"),
        ("12345678901234567890.0", "12345678901234567000"),
        ("1.5", "1.5"),
        ("1e-2", "0.01"),
        ("10.01", "10.01"),
    ],
)
async def test_whole_numbers_are_written_without_a_fraction(
    tmp_path: Path, text: str, written: str, mode: str
) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        posted = numbers(text)[:-1] + f', "any": [{{"a": {text}}}, "1.0"]}}'.encode()
        assert (await here.post(posted)).status_code == 201
        value = await only_value(here, "test.numbers")
        assert value.endswith(f'"number":{written},"any":[{{"a":{written}}},"1.0"]}}'.encode())


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
@pytest.mark.parametrize("text", ["1e400", "-1e999"])
async def test_numbers_beyond_a_double_are_refused(tmp_path: Path, mode: str, text: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        answer = await here.post(b"[" + numbers(text) + b"," + numbers("1") + b"]")
        assert answer.status_code == 207
        assert answer.content.count(text.encode()) == 1, "as it was posted"


BAD_TEXT = b'[{"$schema": "/test/event/1.0.0", "test": "\xff", "meta": {"stream": "a"}}]'


async def test_invalid_utf_8_is_refused(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answer = await here.post(BAD_TEXT)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "not UTF-8: byte 43 of the body"


async def test_upstream_replaces_invalid_utf_8(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        posted = BAD_TEXT.replace(b'"a"', b'"eventstreams.test"')
        assert (await here.post(posted)).status_code == 201
        [stored] = await here.documents()
        assert stored["test"] == "\ufffd"


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
@pytest.mark.parametrize("text", [r"\ud800", r"\udc00", r"\ud800x", r"\udfff\ud800"])
async def test_an_unpaired_surrogate_is_refused(tmp_path: Path, mode: str, text: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        posted = json.dumps(event("HERE")).replace("HERE", text).encode()
        answer = await here.post(posted)
        assert answer.status_code == (400 if mode == "strict" else 500)
        assert await here.documents() == []


@pytest.mark.parametrize("text", ["a\u0000b", "\U0001f600", "é", "\u2028", '"\\'])
async def test_other_text_is_preserved(tmp_path: Path, text: str) -> None:
    async with place(tmp_path) as here:
        assert (await here.post(event(text))).status_code == 201
        [stored] = await here.documents()
        assert stored["test"] == text


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
@pytest.mark.parametrize(
    "uri", ["https://en.wikipedia.org/w/api.php?titles=A|B", "https://de.wikipedia.org/wiki/Käse"]
)
async def test_an_unencoded_uri_is_accepted(tmp_path: Path, uri: str, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        meta = {"stream": "eventstreams.test", "uri": uri}
        assert (await here.post({**event(), "meta": meta})).status_code == 201
        [stored] = await here.documents()
        assert stored["meta"]["uri"] == uri


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_a_minute_has_no_61_seconds(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode) as here:
        meta = {"stream": "eventstreams.test", "dt": "2026-01-01T00:00:61Z"}
        assert (await here.post({**event(), "meta": meta})).status_code == 400


IMPOSSIBLE = ["2021-19-39T29:59:59Z", "2021-02-30T00:00:00Z", "2021-01-01T00:00:00"]


@pytest.mark.parametrize("dt", IMPOSSIBLE)
async def test_impossible_dates_are_refused(tmp_path: Path, dt: str) -> None:
    async with place(tmp_path) as here:
        answer = await here.post({**event(), "meta": {"stream": "eventstreams.test", "dt": dt}})
        assert answer.status_code == 400
        [element] = answer.json()["invalid"]
        assert element["context"]["errorsText"] == ("'.meta.dt' should match format \"date-time\"")


async def test_upstream_accepts_an_impossible_date(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        meta = {"stream": "eventstreams.test", "dt": IMPOSSIBLE[0]}
        assert (await here.post({**event(), "meta": meta})).status_code == 201
        [stored] = await here.documents()
        assert stored["meta"]["dt"] == IMPOSSIBLE[0]


def nested(depth: int) -> Any:
    value: Any = {}
    for n in range(depth):
        value = {"a": value} if n % 2 else [value]
    return value


@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_nesting_is_limited(tmp_path: Path, mode: str) -> None:
    async with place(tmp_path, compatibility=mode, depth_max=10) as here:
        posted = [
            {"$schema": "/test/numbers/1.0.0", "meta": {"stream": "test.numbers"}, "any": nested(n)}
            for n in (8, 9, 500)
        ]
        posted.append({**posted[0], "any": "[" * 50 + '"]' + "{" * 50})
        answer = await here.post(posted)
        assert answer.status_code == 207
        kind, text = ("invalid", "errorsText") if mode == "strict" else ("error", "message")
        elements = answer.json()[kind]
        assert ["more than 10 deep" in each["context"][text] for each in elements] == [True] * 2
        assert [each.get("index") for each in elements] == (
            [1, 2] if mode == "strict" else [None, None]
        )
        assert len(await here.documents("test.numbers")) == 2


async def test_the_size_of_events_is_limited(tmp_path: Path) -> None:
    async with place(tmp_path, event_bytes_max=1000) as here:
        answer = await here.post([event("x" * 2000), event("small")])
        assert answer.status_code == 207
        [element] = answer.json()["invalid"]
        assert element["index"] == 0
        assert "the limit is 1000" in element["context"]["errorsText"]


async def test_the_number_of_events_is_limited(tmp_path: Path) -> None:
    async with place(tmp_path, events_max=3) as here:
        assert (await here.post([event()] * 3)).status_code == 201
        answer = await here.post([event()] * 4)
        assert answer.status_code == 413
        assert "the limit is 3" in answer.json()["detail"]


async def test_the_last_of_duplicate_keys_is_used(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        posted = json.dumps(event("first"))[:-1] + ', "test": "last"}'
        assert (await here.post(posted.encode())).status_code == 201
        [stored] = await here.documents()
        assert stored["test"] == "last"
