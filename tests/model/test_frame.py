"""The data of frames: the JSON of the record with its place, on one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame, encode
from eventstreams.model.redaction import Redaction
from tests.support.strategies import documents, event_documents

LINE_ENDS = ("\u2028", "\u2029", "\x85")


def event(value: bytes | None, key: bytes | None = None, topic: str = "t") -> Event:
    return Event(Partition(topic, 3), 42, 1_000, value, key)


def text_of(document: Any) -> bytes:
    """Return JSON as producers write it: in UTF-8, with lone surrogates escaped."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")


def expected(document: dict[str, Any], key: bytes | None) -> dict[str, Any]:
    meta: dict[str, Any] = dict(document.get("meta") or {})
    meta |= {"topic": "t", "partition": 3, "offset": 42}
    if key is not None:
        meta["key"] = {"type": "Buffer", "data": list(key)}
    return {**document, "meta": meta}


def assert_one_line(data: bytes) -> None:
    text = data.decode("utf-8")  # fails if the bytes contain a lone surrogate
    assert len(text.splitlines()) == 1
    assert not any(c in text for c in LINE_ENDS)


@example({"n": 2**64 - 1, "m": -(2**63), "meta": {"id": 2**53 + 1}}, None)
@example({"\u2028": "\ud800", "meta": {"\x85": "\u2029"}}, b"\x85")
@given(event_documents(), st.none() | st.binary(max_size=3))
def test_a_frame_is_the_record_with_its_place_on_one_line(
    document: dict[str, Any], key: bytes | None
) -> None:
    for value in (text_of(document), json.dumps(document, indent=1).encode()):
        data = encode(event(value, key))
        assert data is not None
        assert_one_line(data)
        found = json.loads(data)
        assert found == expected(document, key)
        assert repr(sorted_keys(found)) == repr(sorted_keys(expected(document, key)))


def sorted_keys(document: Any) -> Any:
    """Return a text for exact comparison: 1, 1.0 and True are equal, but their texts are not."""
    return json.dumps(document, sort_keys=True)


@given(st.lists(documents, max_size=3))
def test_an_array_is_an_event_without_a_place(document: list[Any]) -> None:
    data = encode(event(text_of(document)))
    assert data is not None
    assert_one_line(data)
    assert json.loads(data) == document


def test_frames_are_compact_and_keep_text_as_it_is() -> None:
    data = encode(event('{"title": "Zürich 日本 🎉", "meta": {"dt": 1}}'.encode()))
    assert data is not None
    assert data.decode() == (
        '{"title":"Zürich 日本 🎉","meta":{"dt":1,"topic":"t","partition":3,"offset":42}}'
    )


def test_a_lone_surrogate_does_not_change_numbers_elsewhere() -> None:
    data = encode(event(b'{"a": "\\ud800", "n": 18446744073709551615, "z": "\xe2\x80\xa8"}'))
    assert data is not None
    assert_one_line(data)
    assert b'"\\ud800"' in data
    assert b'"n":18446744073709551615' in data
    assert b'"z":"\\u2028"' in data
    assert b" " not in data


def test_a_record_with_duplicate_keys_is_delivered() -> None:
    data = encode(event(b'{"a": 1, "a": 2}'))
    assert data is not None
    assert json.loads(data)["a"] == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"5",
        b"null",
        b"true",
        b'"text"',
        b"{",
        b'{"a": }',
        b"{} {}",
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\\ud800", "b": -Infinity}',
        b'{"a": 1e999, "b": "\\ud800"}',
        b'{"meta": 5}',
        b'{"meta": []}',
        b'{"meta": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5_000 + b', "b": "\\ud800"}',
    ],
    ids=lambda value: repr(value)[:30],
)
def test_records_without_events_have_no_bytes(value: bytes | None) -> None:
    frame = Frame(event(value))
    assert frame.data is None
    assert frame.data is None


@given(st.binary(max_size=30) | documents.map(text_of))
def test_any_record_can_be_framed(value: bytes) -> None:
    data = encode(event(value))
    if data is not None:
        assert_one_line(data)
        assert json.loads(data) is not None


def test_a_frame_encodes_once_and_releases_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Event] = []

    def counted(one: Event, redaction: Redaction | None) -> bytes | None:
        calls.append(one)
        return encode(one, redaction)

    monkeypatch.setattr("eventstreams.model.frame.encode", counted)
    for value in (b"{}", b"nonsense"):
        frame = Frame(event(value))
        assert calls == []
        assert frame.data is frame.data
        assert len(calls) == 1
        assert frame._event is None
        calls.clear()


def test_a_frame_has_its_place_and_counts_its_record() -> None:
    frame = Frame(event(b'{"a": 1}'))
    assert (frame.partition, frame.offset, frame.timestamp_ms) == (Partition("t", 3), 42, 1_000)
    assert frame.size >= len(b'{"a": 1}')
