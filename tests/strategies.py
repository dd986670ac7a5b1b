"""Hypothesis strategies for the values everything speaks in, shared by all property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from eventstreams.model.event import Record

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
