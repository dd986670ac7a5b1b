"""Hypothesis strategies for the values everything speaks in, shared by all property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from eventstreams.model.epochs import EPOCH_MAX, NO_EPOCH
from eventstreams.model.event import Partition, Record
from eventstreams.model.position import Position

timestamps_ms = st.integers(0, 2**41)
close_timestamps_ms = st.integers(1_000, 1_020)
"""So close that they repeat and go back within a few records."""
values = st.none() | st.binary(max_size=40)
keys = st.none() | st.binary(max_size=3)


def records(topic: str, partitions: int) -> st.SearchStrategy[Record]:
    """Records for a topic: placed by number, by key, or left to the log."""
    return st.builds(
        Record,
        topic=st.just(topic),
        value=values,
        key=keys,
        timestamp_ms=close_timestamps_ms,
        partition=st.none() | st.integers(0, partitions - 1),
    )


topic_names = st.text("abcxyz0189._-", min_size=1, max_size=12) | st.text(min_size=1, max_size=8)
"""Mostly what logs allow; the rest must be encoded all the same."""
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
"""Text with all that ends a line for somebody, and lone surrogates."""

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON document whose numbers fit 64 bits."""


@st.composite
def event_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Objects that may be sent: `meta`, where there is one, is an object or null."""
    document: dict[str, Any] = draw(st.dictionaries(texts, documents, max_size=4))
    document.pop("meta", None)
    if draw(st.booleans()):
        document["meta"] = draw(st.none() | st.dictionaries(texts, documents, max_size=3))
    return document
