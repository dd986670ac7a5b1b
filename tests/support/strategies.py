"""Hypothesis strategies for the values that all parts exchange, shared by all property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Position

timestamps_ms = st.integers(0, 2**41)
close_timestamps_ms = st.integers(1_000, 1_020)
"""Times so close that they repeat or go backwards within a few records."""
values = st.none() | st.binary(max_size=40)
keys = st.none() | st.binary(max_size=3)


def records(topic: str, partitions: int) -> st.SearchStrategy[Record]:
    """Generate records for a topic: placed by number, by key, or by the log."""
    return st.builds(
        Record,
        topic=st.just(topic),
        value=values,
        key=keys,
        timestamp_ms=close_timestamps_ms,
        partition=st.none() | st.integers(0, partitions - 1),
    )


topic_names = st.text("abcxyz0189._-", min_size=1, max_size=12) | st.text(min_size=1, max_size=8)
"""Mostly names that logs allow; others must be encoded all the same."""
partitions = st.builds(Partition, topic_names, st.integers(0, 40))
offsets = st.integers(0, 2**63 - 1)
epochs = st.integers(NO_EPOCH, 40) | st.integers(0, EPOCH_MAX)


@st.composite
def positions(draw: st.DrawFn, max_size: int = 5) -> Position:
    mine = draw(st.lists(partitions, min_size=1, max_size=max_size, unique=True))
    size = len(mine)
    return Position(
        tuple(mine),
        tuple(draw(st.lists(offsets, min_size=size, max_size=size))),
        tuple(draw(st.lists(timestamps_ms, min_size=size, max_size=size))),
        tuple(draw(st.just([NO_EPOCH] * size) | st.lists(epochs, min_size=size, max_size=size))),
    )


texts = st.text(max_size=12) | st.sampled_from(
    [
        "\u2028",
        "\u2029",
        "\x85",
        "a\u2028b",
        "\r\n",
        "\x0b\x0c\x1c\x1d\x1e",
        "\ud800",
        "\udfff\ud800",
    ]
)
"""Text with every character that some reader takes as a line end, and unpaired surrogates."""

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON document whose numbers fit in 64 bits."""


@st.composite
def event_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Generate objects that may be sent: `meta`, if present, is an object or null."""
    document: dict[str, Any] = draw(st.dictionaries(texts, documents, max_size=4))
    document.pop("meta", None)
    if draw(st.booleans()):
        document["meta"] = draw(st.none() | st.dictionaries(texts, documents, max_size=3))
    return document


def _spaced(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Generate the text with white space around it, rarely."""
    space = st.sampled_from(["", "", "", "", " ", "\n", "\t \r\n"])
    return st.builds("{}{}{}".format, space, text, space)


_string_texts = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                "meta",
                "topic",
                "é",
                "日",
                "🎉",
                "\u2028",
                "\u2029",
                "\x85",
                "\x7f",
                ", ",
                '\\"',
            ),
            *("\\\\", "\\/", "\\n", "\\t", "\\u0000", "\\u001f", "\\u00e9", "\\u2028", "\\ud83c"),
            *("\\udf89", "\\ud83c\\udf89", "\\uD800", '\\"topic\\":\\"t\\",', "{", "]", ":"),
        ]
    ),
    max_size=4,
).map(lambda parts: '"' + "".join(parts) + '"')
_number_texts = st.sampled_from(
    [
        *("0", "-0", "-0.0", "1", "42", "1.0", "1e5", "1E+5", "0.1", "1.10", "-1e-7", "1e400"),
        *(
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
        ),
        *("123456789012345678901234567890", "0.30000000000000004", "5e-324", "1e16", "1e22"),
    ]
)
_key_texts = (
    st.sampled_from(
        ['"a"', '"b"', '"meta"', '"topic"', '"partition"', '"offset"', '"key"', '"\\u0061"']
    )
    | _string_texts
)
_scalar_texts = _string_texts | _number_texts | st.sampled_from(["true", "false", "null"])


def _object_texts(
    members: st.SearchStrategy[tuple[str, str]], max_size: int = 4
) -> st.SearchStrategy[str]:
    pairs = members.map(lambda member: f"{member[0]}:{member[1]}")
    return st.lists(pairs, max_size=max_size).map(lambda parts: "{" + ",".join(parts) + "}")


_json_texts = st.recursive(
    _scalar_texts,
    lambda inner: (
        _object_texts(st.tuples(_spaced(_key_texts), _spaced(inner)), 3)
        | st.lists(_spaced(inner), max_size=3).map(lambda parts: "[" + ",".join(parts) + "]")
    ),
    max_leaves=6,
)
_places = st.sampled_from(
    [
        '"topic":"t","partition":3,"offset":42',
        '"topic":"u","partition":0,"offset":7',
        '"topic":"t","offset":42,"partition":3',
        '"topic":"t"',
    ]
)
_meta_texts = st.builds(
    lambda *parts: "{" + ",".join(part for part in parts if part) + "}",
    st.sampled_from(["", '"id":"x"', '"id": "x"', '"domain":"w.example"', '"id":1.0']),
    st.just("") | _places,
    st.sampled_from(["", '"dt":"2026"', '"offset":1', '"key":null']),
)


@st.composite
def event_texts(draw: st.DrawFn) -> bytes:
    """Generate JSON texts in every spelling: escapes, white space, repeated keys, large numbers.

    Most are objects with a `meta`, which may hold the place of topic `t`, partition 3, offset 42.
    Some are no events, and some are no JSON because they end early.
    """
    member = st.tuples(_key_texts, _json_texts)
    metas = st.tuples(st.just('"meta"'), _meta_texts | _meta_texts | _json_texts)
    parts = [f"{key}:{value}" for key, value in draw(st.lists(member | metas, max_size=4))]
    text = draw(st.just("{" + ",".join(parts) + "}") | _spaced(_json_texts))
    data = text.encode("utf-8", "backslashreplace")
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 20)) == 20 else data
