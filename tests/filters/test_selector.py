"""Selection: the order of sample, filter and fields, compared with simple models."""

from __future__ import annotations

import gc
import json
import resource
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.errors import ClientError, InvalidFields, InvalidFilter, InvalidSample
from eventstreams.filters import document as documents_module
from eventstreams.filters.selector import Documents, Selector, parse_selector
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame
from tests.support.strategies import event_documents, texts


def frame_of(value: Any, offset: int = 42) -> Frame:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return Frame(Event(Partition("t", 3), offset, 1_000, raw))


def selector(
    filter_: str | None = None, fields: str | None = None, sample: str | None = None
) -> Selector:
    found = parse_selector(filter_, fields, sample)
    assert found is not None
    return found


def select(one: Selector, value: Any) -> bytes | None:
    return one.select(frame_of(value), Documents())


# Fields


def model(fields: Any, paths: list[list[str]]) -> dict[str, Any]:
    """Look up each path separately; return what is kept, in the order of the event."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        rests = [path[1:] for path in paths if path[0] == name]
        if [] in rests:
            kept[name] = value
        elif rests and isinstance(value, dict) and (inner := model(value, rests)):
            kept[name] = inner
    return kept


part_names = st.sampled_from(["a", "b", "c", "meta", "topic", "id", "ü"])
nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(part_names, inner, max_size=4),
    max_leaves=12,
)
named_events = st.dictionaries(part_names, nested, max_size=5).map(
    lambda event: {**event, "meta": event["meta"] if isinstance(event.get("meta"), dict) else {}}
)
paths = st.lists(st.lists(part_names, min_size=1, max_size=3), min_size=1, max_size=6)


@given(named_events, paths, st.randoms(use_true_random=False))
def test_fields_keep_named_parts_unchanged_and_in_order(
    event: dict[str, Any], wanted: list[list[str]], random: Any
) -> None:
    spelt = [".".join(path) for path in wanted]
    one = selector(fields=",".join(spelt))
    frame = frame_of(event)
    assert frame.data is not None
    line = one.select(frame, Documents())
    assert line is not None
    expected = model(json.loads(frame.data), wanted)
    assert json.dumps(json.loads(line)) == json.dumps(expected), "order and digits are kept"
    assert len(line.decode().splitlines()) == 1
    random.shuffle(spelt)
    other = selector(fields=" , ".join([*spelt, spelt[0]]))
    assert other == one
    assert other.fields == one.fields == tuple(sorted(set(one.fields)))


@example({"n": 2**64 - 1, "f": 1e16, "g": 1e-7, "l": "\u2028\x85", "m": 10**30})
@example({"n": 10**30, "f": 1e16, "x": "\ud800", "l": "\u2029"})
@given(event_documents())
def test_naming_every_field_gives_the_same_bytes(event: dict[str, Any]) -> None:
    wanted = [name for name in event if name.isprintable() and not set(name) & set(",. ") and name]
    kept = {name: event[name] for name in wanted}
    whole = frame_of(kept)
    line = selector(fields=",".join([*wanted, "meta"])).select(whole, Documents())
    assert line == whole.data


def many(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    "encoded",
    [
        '{"n": 123456789012345678901234567890, "f": 1e16, "s": 5}'.encode("utf-16"),
        b'\xef\xbb\xbf{"n": 123456789012345678901234567890, "f": 1e16, "s": 5}',
        b'{"n": 123456789012345678901234567890, "f": 1e16, "s": "\\udc00"}',
        b'{"n": 123456789012345678901234567890, "f": 1e16, "s": 5}',
        f'{{"n": 123456789012345678901234567890, "f": 1e16, "s": {many(300)}}}'.encode(),
    ],
    ids=["utf-16", "byte order mark", "lone surrogate", "plain", "deep"],
)
def test_numbers_keep_their_digits_in_every_encoding(encoded: bytes) -> None:
    frame = frame_of(encoded)
    assert frame.data is not None
    line = selector(fields="n,f").select(frame, Documents())
    assert line is not None
    assert frame.data.startswith(line[:-1] + b",")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("b,a", b'{"a":{"x":1,"y":[{"z":2}]},"b":null}'),
        ("a.x", b'{"a":{"x":1}}'),
        ("a.x,a", b'{"a":{"x":1,"y":[{"z":2}]}}'),
        ("a.y", b'{"a":{"y":[{"z":2}]}}'),
        ("a.y.z", b"{}"),
        ("a.x.z", b"{}"),
        ("b.z", b"{}"),
        ("nothing", b"{}"),
        ("e", b'{"e":{}}'),
        ("e.x", b"{}"),
        ("meta.offset", b'{"meta":{"offset":42}}'),
        ("two words", b'{"two words":1}'),
        (" a.x , b ", b'{"a":{"x":1},"b":null}'),
    ],
)
def test_fields_by_example(fields: str, expected: bytes) -> None:
    event = {"a": {"x": 1, "y": [{"z": 2}]}, "b": None, "e": {}, "two words": 1}
    assert select(selector(fields=fields), event) == expected


def test_an_array_has_no_fields() -> None:
    assert select(selector(fields="a"), [{"a": 1}]) == b"{}"


def test_a_path_within_another_one_is_dropped() -> None:
    assert selector(fields="meta.dt,meta,title,meta.a.b").fields == ("meta", "title")
    assert selector(fields="me,meta.dt").fields == ("me", "meta.dt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("", "at position 1: a name is empty"),
        ("  ", "at position 1: a name is empty"),
        ("a,", "at position 3: a name is empty"),
        ("a,,b", "at position 3: a name is empty"),
        ("a, .b", "at position 4: a part of .b is empty"),
        ("a,b..c", "at position 5: a part of b..c is empty"),
        ("a.", "at position 3: a part of a. is empty"),
        (".", "at position 1: a part of . is empty"),
        ("a\n", "at position 2: the character U+000A is not allowed in a name"),
        ("a\0", "at position 2: the character U+0000 is not allowed in a name"),
        ("ab\x85", "at position 3: the character U+0085 is not allowed in a name"),
        ("\ud800", "at position 1: the character U+D800 is not allowed in a name"),
        (",".join(f"f{i:02}" for i in range(65)), "at position 257: there may be 64 names at most"),
        ("a," + ".".join("a" * 33), "at position 3: a path has 33 parts; the limit is 32"),
        ("a" * 1_025, "The fields have 1025 characters; the limit is 1024"),
    ],
)
def test_invalid_fields_are_refused_with_reason_and_place(fields: str, message: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        parse_selector(None, fields, None)
    assert caught.value.detail.endswith(message)
    caught.value.detail.encode()


def test_fields_are_accepted_up_to_the_limits() -> None:
    assert len(selector(fields=",".join(f"f{i}" for i in range(64))).fields) == 64
    assert selector(fields="a" * 1_024).fields == ("a" * 1_024,)
    deep: Any = 1
    for _ in range(32):
        deep = {"a": deep}
    line = select(selector(fields=".".join("a" * 32)), deep)
    assert line is not None
    assert json.loads(line) == deep


@given(st.text(max_size=30))
def test_any_text_is_fields_or_refused(fields: str) -> None:
    try:
        one = parse_selector(None, fields, None)
    except InvalidFields as error:
        error.detail.encode()
        return
    assert one is not None
    assert select(one, {"a": 1}) is not None
    assert parse_selector(None, ",".join(one.fields), None) == one


# Sample


def kept_by_model(identity: str, share: float) -> bool:
    digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return int(digest, 16) < share * 2**64


shares = st.floats(1e-9, 0.999999).map(lambda share: f"{share:.12f}")


@given(texts | st.uuids().map(str), shares, shares)
def test_larger_samples_contain_smaller_ones_by_id(identity: str, a: str, b: str) -> None:
    less, more = sorted((a, b), key=float)
    for offset in (1, 2):  # the place does not matter
        frame = frame_of({"meta": {"id": identity}}, offset)
        kept = [
            selector(sample=share).select(frame, Documents()) is not None for share in (less, more)
        ]
        assert kept == [kept_by_model(identity, float(share)) for share in (less, more)]
        assert kept[0] <= kept[1]


@pytest.mark.parametrize("event", [{}, {"meta": None}, {"meta": {"id": 5}}, [1], {"id": "x"}])
def test_events_without_ids_are_sampled_by_place(event: Any) -> None:
    half = selector(sample="0.5")
    kept = [half.select(frame_of(event, i), Documents()) is not None for i in range(200)]
    assert kept == [kept_by_model(f"t/3/{i}", 0.5) for i in range(200)]


def test_a_sample_has_about_its_share_of_events() -> None:
    frames = [frame_of({"meta": {"id": f"event-{i}"}}, i) for i in range(4_000)]
    documents = Documents()
    tenth = selector(sample="0.1")
    assert 320 <= sum(tenth.select(frame, documents) is not None for frame in frames) <= 480


@pytest.mark.parametrize(
    "sample",
    [
        *("", " ", "0", "0.0", "-0.5", "+0.5", "1.0001", "2", "1e-3", "0x1", "nan", "inf", "half"),
        *(
            "0,5",
            "50%",
            "1/2",
            ".",
            "0.5.5",
            "\u0660.\u0665",
            "1_0",
            "0" * 30,
            "\ud800",
            "0.5\0",
            "0.5 5",
        ),
        "0." + "0" * 20,
    ],
)
def test_an_invalid_sample_is_refused(sample: str) -> None:
    with pytest.raises(InvalidSample) as caught:
        parse_selector(None, None, sample)
    assert caught.value.detail.startswith("sample=")
    assert caught.value.detail.endswith(" is not a decimal number above 0 and at most 1")
    caught.value.detail.encode()


@pytest.mark.parametrize("sample", ["0.5", ".5", " 0.50 ", "00.5000"])
def test_equal_samples_may_be_written_differently(sample: str) -> None:
    assert selector(sample=sample) == selector(sample="0.5")


# Selectors


def test_requests_for_everything_need_no_selector() -> None:
    assert parse_selector(None, None, None) is None
    assert parse_selector(" ", None, None) is None
    assert parse_selector(None, None, "1") is None
    assert parse_selector(None, None, "1.00") is None


def test_equal_selectors_are_one_key() -> None:
    one = selector("event.a==1 // x", "b, a", "0.10")
    same = selector(" event . a == 1", "a,b,a", ".1")
    assert one == same
    assert {one: 1}[same] == 1
    assert (one.filter, one.fields, one.sample) == ("event.a == 1", ("a", "b"), 0.1)
    others = [
        selector("event.a == 2", "a,b", "0.1"),
        selector("event.a == 1", "a", "0.1"),
        selector("event.a == 1", "a,b", "0.2"),
        selector(None, "a,b", "0.1"),
        selector("event.a == 1", None, "0.1"),
        selector("event.a == 1", "a,b", None),
    ]
    without = [
        parse_selector("event.a == 1", "a,b", "0.1", canaries=False),
        parse_selector(None, None, None, canaries=False),
    ]
    assert len({one, same, *others, *without}) == 9
    assert one != "event.a == 1"
    assert repr(one) == (
        "Selector(filter='event.a == 1', fields=('a', 'b'), sample=0.1, canaries=True)"
    )


def test_selectors_are_immutable() -> None:
    one = selector("true")
    for name in ("filter", "sample", "other"):
        with pytest.raises(AttributeError):
            setattr(one, name, None)
    assert not hasattr(one, "__dict__")


def test_refusals_are_bad_requests() -> None:
    kinds: list[tuple[type[ClientError], tuple[str | None, str | None, str | None]]] = [
        (InvalidFilter, ("?", None, None)),
        (InvalidFields, (None, ".", None)),
        (InvalidSample, (None, None, "x")),
    ]
    for kind, arguments in kinds:
        with pytest.raises(kind) as caught:
            parse_selector(*arguments)
        assert caught.value.status == 400


def test_filter_and_fields_and_sample_are_all_applied() -> None:
    ids = [f"event-{i}" for i in range(60)]
    one = selector('event.n == 1 && event.meta.id != ""', "m", "0.5")
    documents = Documents()
    for i, identity in enumerate(ids):
        line = one.select(frame_of({"n": i % 2, "m": i, "meta": {"id": identity}}), documents)
        wanted = i % 2 == 1 and kept_by_model(identity, 0.5)
        assert line == (b'{"m":%d}' % i if wanted else None)


def test_filters_skip_events_outside_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    one = selector("event.n == 1", None, "0.5")
    asked: list[str] = []

    def matches(_: Any, document: Any) -> bool:
        asked.append(document.fields["meta"]["id"])
        return True

    monkeypatch.setattr("eventstreams.filters.cel.Program.matches", matches)
    ids = [f"event-{i}" for i in range(50)]
    for identity in ids:
        select(one, {"meta": {"id": identity}})
    assert asked == [identity for identity in ids if kept_by_model(identity, 0.5)]


def test_whole_events_are_the_bytes_of_the_frame() -> None:
    frame = frame_of({"a": "\u2028"})
    assert selector("event.a != ''").select(frame, Documents()) is frame.data


@pytest.mark.parametrize("value", [None, b"", b"5", b"nonsense"])
def test_records_without_events_are_never_selected(value: bytes | None) -> None:
    for one in (selector("true"), selector(fields="a"), selector(sample="0.999999")):
        assert select(one, value) is None


def test_an_event_is_parsed_once_for_all_selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    loads = documents_module.orjson.loads

    class Counting:
        JSONDecodeError = documents_module.orjson.JSONDecodeError
        JSONEncodeError = documents_module.orjson.JSONEncodeError
        dumps = staticmethod(documents_module.orjson.dumps)

        @staticmethod
        def loads(data: bytes) -> Any:
            parsed.append(data)
            return loads(data)

    monkeypatch.setattr(documents_module, "orjson", Counting)
    documents = Documents()
    frames = [frame_of({"a": 1}), frame_of({"a": 1})]
    for one in (selector("event.a == 1"), selector(fields="a"), selector(sample="0.5")):
        for frame in frames:
            one.select(frame, documents)
    assert parsed == [frames[0].data, frames[1].data], "each once, although they are equal"


def test_the_most_recently_used_documents_are_kept() -> None:
    frames = [frame_of({"a": "x" * 1_000}, i) for i in range(20)]
    one = Documents().of(frames[0])
    assert one is not None
    documents = Documents(bytes_max=10 * documents_module._weight(one))
    made = [documents.of(frame) for frame in frames]
    assert documents._bytes <= documents._bytes_max
    assert [documents.of(frame) for frame in frames[11:]] == made[11:]
    assert frames[11] in documents._kept
    assert documents.of(frames[11]) is made[11]  # now the newest
    documents.of(frames[0])
    assert frames[11] in documents._kept
    assert frames[12] not in documents._kept
    assert documents.of(frames[1]) is not made[1]


@pytest.mark.parametrize("value", [[], {}, [1], 1, "abc", 2**70, "\u20ac" * 20])
def test_a_parsed_event_takes_no_more_memory_than_is_counted(value: Any) -> None:
    frame = frame_of({"a": [value] * 9_000})
    one = selector("event.a == 1", "a")
    one.select(frame, Documents())  # the frame keeps its bytes
    gc.collect()
    began = resident_bytes()
    kept = [Documents() for _ in range(20)]
    for documents in kept:
        one.select(frame, documents)
    counted = sum(documents._bytes for documents in kept)
    assert resident_bytes() - began <= counted * 1.2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_events_larger_than_the_cache_are_selected() -> None:
    documents = Documents(bytes_max=100)
    frame = frame_of({"a": "x" * 1_000, "b": 1})
    assert selector("event.b == 1", "b").select(frame, documents) == b'{"b":1}'
    assert documents._bytes == 0
    assert not documents._kept


# Canary events


@given(event_documents() | st.builds(lambda d: {"meta": {"domain": d}}, texts), st.booleans())
@example({"meta": {"domain": "canary"}}, True)
@example({"meta": {"domain": "canary", "n": 2**70}}, False)
@example({"meta": {"domain": "canary2"}, "title": "canary"}, True)
@example({"meta": {"domain": ["canary"]}, "domain": "canary"}, True)
@example({"meta": "canary"}, True)
@example([{"meta": {"domain": "canary"}}], True)
def test_without_canaries_all_other_events_are_unchanged(value: Any, alone: bool) -> None:
    one = parse_selector(None if alone else "true", None, None, canaries=False)
    assert one is not None
    frame = frame_of(value)
    meta = value.get("meta") if isinstance(value, dict) else None
    is_canary = isinstance(meta, dict) and meta.get("domain") == "canary"
    is_readable = alone or isinstance(value, dict)  # only objects can match a filter
    wanted = frame.data if is_readable and not is_canary else None
    assert one.select(frame, Documents()) == wanted


def test_without_canaries_records_without_events_are_skipped() -> None:
    one = parse_selector(None, None, None, canaries=False)
    assert one is not None
    assert select(one, None) is None
    assert select(one, b"not json") is None
