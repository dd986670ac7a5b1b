"""Loaded filters stay within their memory, and filters that are used in turn are mostly found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.filters import cel
from eventstreams.filters.document import Document, Origin
from eventstreams.filters.loaded import BYTES_FACTOR, Loaded


class Loads:
    """Counts the filters that are loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, serialized: bytes) -> bytes:
        self.count += 1
        return serialized.upper()


def get(loaded: Loaded[bytes], serialized: bytes) -> bytes:
    return loaded.find(serialized) or loaded.load(serialized)


@pytest.mark.parametrize(("filters", "loads_max"), [(100, 0), (104, 30), (200, 120)])
def test_filters_used_in_turn_are_found_if_there_is_room(filters: int, loads_max: int) -> None:
    load = Loads()
    loaded = Loaded(load, bytes_max=100 * 4 * BYTES_FACTOR)
    for _ in range(50):
        before = load.count
        for n in range(filters):
            assert get(loaded, b"%04d" % n) == b"%04d" % n
    assert load.count - before <= loads_max


def test_a_filter_that_is_used_often_replaces_one_that_is_not() -> None:
    load = Loads()
    loaded = Loaded(load, bytes_max=10 * 4 * BYTES_FACTOR)
    for n in range(10):
        get(loaded, b"%04d" % n)
    for _ in range(200):
        get(loaded, b"many")
    before = load.count
    get(loaded, b"many")
    assert load.count == before


@given(st.lists(st.binary(max_size=12)), st.integers(0, 200))
def test_loaded_filters_stay_within_their_bytes(asked: list[bytes], bytes_max: int) -> None:
    loaded = Loaded(Loads(), bytes_max=bytes_max)
    for serialized in asked:
        assert get(loaded, serialized) == serialized.upper()
        assert 0 <= loaded.bytes <= bytes_max


def test_a_filter_that_is_evaluated_often_stays_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def load(serialized: bytes) -> Any:
        nonlocal count
        count += 1
        return cel._deserialize(serialized)

    monkeypatch.setattr(cel, "_loaded", Loaded(load, bytes_max=0))
    program = cel.compile_filter("event.often == 1")
    assert program is not None
    document = Document(Origin("t", 0, 1, 1_000), b'{"often":1}')
    for _ in range(3 * cel._OFTEN):
        assert program.matches(document)
    assert count == cel._OFTEN
