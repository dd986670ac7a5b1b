"""A record's line made by copying bytes is the same as the one made by parsing the record."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.intake.document import EventProblem, parse, write
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame, encode, span_of
from eventstreams.model.place import SPAN_VALUE_BYTES_MAX, find_span
from eventstreams.model.redaction import Redaction, Redactions, Rule
from tests.support.strategies import documents, event_texts, texts

P = Partition("t", 3)
RULES = Redaction([Rule(domain="w.example", titles=("a",), remove=("b",), title_fields=("a",))])


def with_span(event: Event) -> Event:
    """Return the event as a log returns it that stores spans."""
    line = encode(event)
    span = None if line is None else find_span(event, line)
    return msgspec.structs.replace(event, place_span=span)


@example(b'{"meta":{}}', None)
@example(b'{"meta":{"a":1,"a":2}}', None)
@example(b'{"a":1,"a":2,"meta":{"id":1}}', None)
@example(b'{"n":18446744073709551616,"meta":{"id":1}}', None)
@example(b'{"n":1e400,"meta":{"id":1}}', None)
@example(b'{"n":-0,"meta":{"id":1}}', None)
@example('{"s":"\u2028","meta":{"id":1}}'.encode(), None)
@example(b'{"o":{"topic":"t","partition":3,"offset":42},"meta":{"id":1}}', None)
@example(b'{"meta":{"topic":"u","id":1,"partition":0,"offset":1}}', None)
@example(b'{"meta":{"id":1}}', b"key")
@given(event_texts(), st.none() | st.none() | st.binary(max_size=2))
def test_a_line_with_a_span_equals_the_parsed_one(value: bytes, key: bytes | None) -> None:
    event = Event(P, 42, 1_000, value, key)
    redactions = Redactions()
    frame, plain = Frame(with_span(event), redactions), Frame(event, redactions)
    assert frame.data == plain.data == encode(event)
    redactions.replace({"t": RULES})
    assert frame.data == plain.data
    assert Frame(with_span(event), redactions).data == encode(event, RULES)


@example(b'{"meta":{}}')
@example(b'{"meta":{"id":1},"n":18446744073709551616}')
@example(b'{"meta":{"id":1},"n":1e16,"m":1.5e300,"x":0.00001}')
@example('{"meta":{"id":"\u2028"}}'.encode())
@example('{"meta":{"id":"\x85 \xe9"}}'.encode())
@example(b'{"meta":{"id":1,"offset":0,"topic":"","partition":0}}')
@example(b'{"o":{"a":1,"topic":"","partition":0,"offset":0},"meta":{"id":1}}')
@given(event_texts())
def test_a_posted_event_has_the_span_that_its_record_would_get(text: bytes) -> None:
    try:
        document = parse(text, lenient=False)
    except EventProblem:
        return
    value = write(document)
    found = span_of(document, value) if isinstance(document, dict) else None
    assert write(document) == value  # the document is as before
    if found is not None:
        assert found == with_span(Event(P, 42, 1_000, value)).place_span


@given(
    st.dictionaries(texts, st.integers() | st.booleans() | texts, max_size=3),
    st.dictionaries(st.sampled_from(["id", "dt", "uri"]), st.text("abcé"), min_size=1),
)
def test_posted_events_have_a_span_if_meta_names_no_place(
    fields: dict[str, Any], meta: dict[str, Any]
) -> None:
    document = {**fields, "meta": meta, "after": [1, "x"]}
    try:
        value = write(document)
    except (UnicodeEncodeError, OverflowError):
        return
    assert span_of(document, value) == with_span(Event(P, 42, 1_000, value)).place_span


@given(
    st.dictionaries(texts.filter(lambda text: text.isascii()), st.integers(0, 9), max_size=3),
    st.dictionaries(st.sampled_from(["id", "dt", "uri"]), st.text("abc"), min_size=1),
    st.none() | st.builds(Partition, st.sampled_from(["t", "u"]), st.integers(0, 5)),
)
def test_compact_events_have_a_span(
    fields: dict[str, int], meta: dict[str, Any], earlier: Partition | None
) -> None:
    """This holds for events as producers write them, and as gateways send them."""
    if earlier is not None:
        meta |= {"topic": earlier.topic, "partition": earlier.number, "offset": 7}
    value = orjson.dumps({**fields, "meta": meta, "after": [1, "x"]})
    assert with_span(Event(P, 42, 1_000, value)).place_span is not None


@given(documents)
def test_events_without_meta_have_no_span(document: Any) -> None:
    value = orjson.dumps({"a": repr(document)})
    assert with_span(Event(P, 42, 1_000, value)).place_span is None


@pytest.mark.parametrize("excess", [0, 1])
def test_values_beyond_the_limit_have_no_span(excess: int) -> None:
    head = b'{"meta":{"id":1},"text":"'
    value = head + b"x" * (SPAN_VALUE_BYTES_MAX + excess - len(head) - 2) + b'"}'
    found = with_span(Event(P, 42, 1_000, value))
    assert (found.place_span is None) == bool(excess)
    assert (span_of(orjson.loads(value), value) is None) == bool(excess)
    assert Frame(found).data == encode(found)


def test_a_topic_with_a_lone_surrogate_has_no_span() -> None:
    event = Event(Partition("\ud800", 0), 1, 1, b'{"meta":{"id":1}}')
    assert with_span(event).place_span is None
    assert Frame(with_span(event)).data == encode(event)


def test_a_record_with_a_span_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    event = with_span(Event(P, 42, 1_000, b'{"meta":{"id":"x"},"n":1}'))
    monkeypatch.setattr("eventstreams.model.frame.encode", lambda *_: pytest.fail("parsed"))
    expected = b'{"meta":{"id":"x","topic":"t","partition":3,"offset":42},"n":1}'
    assert Frame(event).data == expected


def test_redactions_apply_to_records_with_a_span() -> None:
    value = b'{"meta":{"domain":"w.example"},"a":"a","b":"secret"}'
    event = with_span(Event(P, 42, 1_000, value))
    assert event.place_span is not None
    data = Frame(event, Redactions({"t": RULES})).data
    assert data == encode(event, RULES)
    assert b"secret" not in (data or b"secret")
