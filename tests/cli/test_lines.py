"""Lines out of chunks, and which of them are events."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.cli.lines import BadDocument, Line, LineReader, event_time_ms, parse_document

_MAX = 8


def _read(chunks: list[bytes], bytes_max: int = 1000) -> list[Line]:
    reader = LineReader(bytes_max=bytes_max)
    lines = [line for chunk in chunks for line in reader.feed(chunk)]
    return lines + list(reader.end())


@given(
    st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"x"))),
    st.lists(st.integers(0, 200)),
    st.booleans(),
)
def test_lines_do_not_depend_on_the_chunks_of_a_file(
    texts: list[bytes], cuts: list[int], ends_with_newline: bool
) -> None:
    whole = b"\n".join(texts) + (b"\n" if texts and ends_with_newline else b"")
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[a:b] for a, b in pairwise(bounds)]
    lines = _read(chunks, _MAX)
    assert lines == _read([whole], _MAX)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []
    assert [line.number for line in lines] == list(range(1, len(expected) + 1))
    for (_, text), raw in zip(lines, expected, strict=True):
        bare = raw.removesuffix(b"\r")
        assert text == (bare if len(bare) <= _MAX else None)


def test_a_line_without_end_takes_no_more_memory_than_the_longest_allowed() -> None:
    reader = LineReader(bytes_max=_MAX)
    for _ in range(1000):
        assert list(reader.feed(b"x" * 100)) == []
    assert len(reader._rest) <= _MAX + 1
    assert list(reader.feed(b"\nok\n")) == [Line(1, None), Line(2, b"ok")]


def test_a_byte_order_mark_before_the_first_line_is_not_part_of_it() -> None:
    assert _read([b"\xef\xbb\xbf{}\r\n{}"]) == [Line(1, b"{}"), Line(2, b"{}")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff{}", "not UTF-8 (byte 1)"),
        (b'{"a":', "not JSON ("),
        (b'{"a":NaN}', "not JSON ("),
        (b"{} {}", "not JSON ("),
        (b"[" * 100_000, "not JSON ("),
        (b"[1]", "not a JSON object but a list"),
        (b"null", "not a JSON object but null"),
        (b"true", "not a JSON object but a boolean"),
        (b"1.5", "not a JSON object but a number"),
        (b'"x"', "not a JSON object but a string"),
        (b'{"meta":"x"}', "its meta is not an object but a string"),
    ],
)
def test_invalid_events_are_refused_with_a_reason(text: bytes, reason: str) -> None:
    with pytest.raises(BadDocument) as caught:
        parse_document(text)
    assert str(caught.value).startswith(reason) or "nested too deeply" in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"a":"\\ud800"}', '{"a":1,"a":2}', '{"n":12345678901234567890}', '{"meta":null}']
)
def test_odd_but_valid_documents_are_events(text: str) -> None:
    assert parse_document(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("meta", "time_ms"),
    [
        ({"dt": "1970-01-01T00:00:01.5Z"}, 1500),
        ({"dt": "yesterday"}, None),
        ({"dt": 5}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_time_of_an_event_is_meta_dt(meta: object, time_ms: int | None) -> None:
    assert event_time_ms({"meta": meta}) == time_ms
