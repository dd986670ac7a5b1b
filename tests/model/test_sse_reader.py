"""The reader of event streams, compared with the rules of HTML.

Cases that are named after web-platform-tests have the inputs and results of its
`eventsource/format-*`, `event-data` and `format-field-id*`.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SseEventTooLarge
from eventstreams.model.sse import SseEvent, SseReader, is_event_stream

LONG = b"x" * 2048
CASES: dict[str, tuple[bytes, list[str]]] = {
    "format-bom": (
        b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n",
        ["1", "3"],
    ),
    "format-bom-2": (b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n", ["2", "3"]),
    "format-comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:" + LONG + b"\rdata:3\n:data:fail\r:" + LONG + b"\ndata:4\n\n",
        ["1\n2\n3\n4"],
    ),
    "format-data-before-final-empty-line": (b"data:test1\n\nid:test\ndata:test2", ["test1"]),
    "event-data": (
        b"data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\n"
        b"data\n\ndata:end\n\n",
        ["msg\nmsg", "", "end"],
    ),
    "format-field-data": (b"data:\n\ndata\ndata\n\ndata:test\n\n", ["", "\n", "test"]),
    "format-field-parsing": (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\r"
        b"data:\r\n data:32\ndata:4\n\n",
        ["\0\n 2\n1\n3\n\n4"],
    ),
    "format-field-unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        ["test\n\ntest"],
    ),
    "format-leading-space": (b"data:\ttest\rdata: \ndata:test\n\n", ["\ttest\n\ntest"]),
    "format-newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", ["test\n\ntest"]),
    "format-null-character": (b"data:\0\n\n\n\n", ["\0"]),
    "format-utf-8": ("data:ok…\n\n".encode(), ["ok…"]),
    "invalid UTF-8 is replaced": (b"data:a\xffb\xe2\x80\n\n", ["a\ufffdb\ufffd"]),
    "a lone CR ends lines": (b"data:1\r\rdata:2\r\r", ["1", "2"]),
    "no other character ends a line": (
        "data:a\u2028b\u0085c\vd\fe\x1cf\n\n".encode(),
        ["a\u2028b\u0085c\vd\fe\x1cf"],
    ),
    "one space after the colon is dropped": (b"data:  a \n\n", [" a "]),
    "a first line that is empty but for its mark": (b"\xef\xbb\xbf\ndata:1\n\n", ["1"]),
}


def read(reader: SseReader, *chunks: bytes) -> list[SseEvent]:
    return [event for chunk in chunks for event in reader.feed(chunk)]


@pytest.mark.parametrize("name", CASES)
def test_data_is_read_as_html_specifies(name: str) -> None:
    stream, expected = CASES[name]
    assert [event.data for event in read(SseReader(), stream)] == expected
    one_by_one = [stream[i : i + 1] for i in range(len(stream))]
    assert [event.data for event in read(SseReader(), *one_by_one)] == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"event:test\ndata:x\n\ndata:x\n\n", ["test", "message"]),  # format-field-event
        (b"event: \ndata:data\n\n", ["message"]),  # format-field-event-empty
        (b"event:lost\n\ndata:x\n\n", ["message"]),
        (b"event:a\nevent:b\ndata:x\n\n", ["b"]),
        (b"event: Two Words \ndata:x\n\n", ["Two Words "]),
    ],
)
def test_an_event_type_applies_to_its_block_only(stream: bytes, expected: list[str]) -> None:
    assert [event.event for event in read(SseReader(), stream)] == expected


@pytest.mark.parametrize(
    ("stream", "ids", "to_resume"),
    [
        (b"id: 1\ndata: 1\n\ndata:2\n\n", ["1", "1"], "1"),  # format-field-id-3, persists
        (b"id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n", ["1", "2", "2"], "2"),
        (b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n", ["1", "", ""], ""),  # resets
        (b"id: 1\ndata: 1\n\nid\ndata:2\n\n", ["1", ""], ""),
        ("id: \u2026\ndata:x\n\n".encode(), ["\u2026"], "\u2026"),  # format-field-id
        (b"id:\0\0\ndata:x\n\n", [""], ""),  # format-field-id-null
        (b"id:a\n\nid:b\0c\ndata:x\n\n", ["a"], "a"),
        (b"id: abc \ndata:x\n\n", ["abc "], "abc "),
        (b"id: a\x01b\ndata:x\n\n", ["a\x01b"], "a\x01b"),
        (b"data:1\nid:a\n\nid:checkpoint\n\n", ["a"], "checkpoint"),
        (b"data:1\nid:a\n\ndata:2\nid:torn\n", ["a"], "a"),
        (b"data:1\nid:a\n\nid:torn", ["a"], "a"),
    ],
)
def test_an_id_applies_from_the_end_of_its_block(
    stream: bytes, ids: list[str], to_resume: str
) -> None:
    reader = SseReader()
    assert [event.id for event in read(reader, stream)] == ids
    assert reader.last_event_id == to_resume


def test_the_id_of_the_request_applies_until_another_arrives() -> None:
    reader = SseReader(last_event_id="before")
    assert [event.id for event in read(reader, b"data:1\n\nid:new\ndata:2\n\n")] == [
        "before",
        "new",
    ]


@pytest.mark.parametrize(
    ("stream", "retry_ms"),
    [
        (b"retry:3000\ndata:x\n\n", 3000),  # format-field-retry
        (b"retry:2000\nretry:1000x\ndata:x\n\n", 2000),  # format-field-retry-bogus
        (b"retry\ndata:test\n\n", None),  # format-field-retry-empty
        (b"retry: 7\n", 7),
        (b"retry: 7", None),
        (b"retry:-1\n", None),
        (b"retry:+1\n", None),
        (b"retry: 1_0\n", None),
        (b"retry:1.5\n", None),
        ("retry:\u0663\n".encode(), None),
        (b"retry:" + b"9" * 10_000 + b"\n", 999_999_999_999_999),
    ],
)
def test_a_reconnection_time_is_digits_and_applies_at_once(
    stream: bytes, retry_ms: int | None
) -> None:
    reader = SseReader()
    read(reader, stream)
    assert reader.retry_ms == retry_ms


_PIECES = st.sampled_from(
    [
        *(b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"12"),
        *(b"\0", b"\xef\xbb\xbf", b"\xff", "…".encode(), b"\xe2\x80"),
    ]
)
_STREAMS = st.lists(_PIECES, max_size=60).map(b"".join)


@given(stream=_STREAMS, cuts=st.lists(st.integers(0, 150), max_size=20))
def test_any_chunking_of_the_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    whole, parts = SseReader(last_event_id="x"), SseReader(last_event_id="x")
    assert read(parts, *chunks) == read(whole, stream)
    assert (parts.last_event_id, parts.retry_ms) == (whole.last_event_id, whole.retry_ms)


_TEXTS = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)


@given(
    blocks=st.lists(st.tuples(_TEXTS, _TEXTS, st.lists(_TEXTS, min_size=1, max_size=4))),
    end=st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_written_events_are_read_back(blocks: list[tuple[str, str, list[str]]], end: str) -> None:
    lines: list[str] = []
    expected: list[SseEvent] = []
    last = ""
    for event, id_, data in blocks:
        lines += [f"event: {event}", f"id: {id_}", *(f"data: {line}" for line in data), ""]
        last = last if "\0" in id_ else id_
        expected.append(SseEvent(event or "message", "\n".join(data), last))
    assert read(SseReader(), "".join(line + end for line in lines).encode()) == expected


@pytest.mark.parametrize(
    "stream",
    [
        b"data:" + b"x" * 100 + b"\n\n",
        b":" + b"x" * 100 + b"\n",
        b"".join(b"data:" + b"x" * 20 + b"\n" for _ in range(5)),
        b"x" * 101,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_beyond_the_limit_is_refused_after_those_before_it(
    stream: bytes, size: int
) -> None:
    reader = SseReader(event_bytes_max=80)
    whole = b"data:1\nid:a\n\n" + stream
    events = (
        event for i in range(0, len(whole), size) for event in reader.feed(whole[i : i + size])
    )
    assert next(events).data == "1"
    with pytest.raises(SseEventTooLarge, match="more than 80 bytes"):
        next(events)
    assert reader.last_event_id == "a"


def test_a_long_line_in_small_chunks_is_joined_once() -> None:
    reader = SseReader()
    chunk = b"x" * 10
    read(reader, b"data:")
    read(reader, *[chunk] * 100_000)
    assert [len(event.data) for event in reader.feed(b"\n\n")] == [1_000_000]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream ; charset=windows-1252", True),
        ("text/event-stream;", True),  # format-mime-trailing-semicolon
        ("text/event-streams", False),
        ("x text/event-stream", False),
        ("text/x-bogus", False),  # format-mime-valid-bogus
        ("x bogus", False),  # format-mime-bogus
        ("", False),
        (None, False),
    ],
)
def test_only_event_streams_are_recognized_as_such(
    content_type: str | None, expected: bool
) -> None:
    assert is_event_stream(content_type) is expected
