"""The book: leases are counted over all holders, rates hold whatever the order of the asking."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventstreams.ledger.book import RATE, Book, Claim, Rate

KEYS = st.sampled_from("ab")
HOLDERS = st.sampled_from("xyz")
STEPS = st.lists(st.tuples(HOLDERS, KEYS, st.sampled_from(["take", "give", "die"])), max_size=60)


@given(STEPS, st.integers(1, 4))
def test_never_more_are_held_than_may_be_and_what_is_given_back_is_free(
    steps: list[tuple[str, str, str]], most: int
) -> None:
    book, held = Book(), {holder: Counter[str]() for holder in "xyz"}
    for holder, key, what in steps:
        own = held[holder]
        if what == "take":
            free = sum(each[key] for each in held.values()) < most
            granted = book.take(holder, [Claim(key, own[key] + 1, most)], None, 0.0) == ""
            assert granted == free
            own[key] += granted
        elif what == "give" and own[key]:
            own[key] -= 1
            book.settle(holder, {key: own[key]})
            book.settle(holder, {key: own[key]})  # told twice, returned once
        elif what == "die":
            own.clear()
            book.forget(holder)
        for each in "ab":
            assert book.held(each) == sum(counts[each] for counts in held.values()) <= most


def test_what_is_refused_for_one_key_is_held_for_none() -> None:
    book = Book()
    assert book.take("x", [Claim("all", 1, 1), Claim("a", 1, 5)], None, 0.0) == ""
    assert book.take("y", [Claim("b", 1, 5), Claim("all", 1, 1)], None, 0.0) == "all"
    assert book.held("b") == 0


@given(st.lists(st.floats(0, 300), max_size=200), st.integers(1, 20))
def test_in_no_minute_more_than_twice_the_rate_is_granted_and_the_rate_over_time(
    times: list[float], per_minute: int
) -> None:
    """GCRA: a burst of one minute's worth, and what has been made up for since."""
    book = Book()
    granted = [at for at in sorted(times) if not book.take("x", [], Rate("k", per_minute), at)]
    for first in granted:
        for window in (60.0, 150.0):
            within = sum(first <= at <= first + window for at in granted)
            assert within <= per_minute * (1 + window / 60) + 1
    assert len(granted) >= min(len(times), per_minute)


def test_a_rate_is_each_keys_own_and_refills() -> None:
    book = Book()
    assert [book.take("x", [], Rate("k", 2), 0.0) for _ in range(3)] == ["", "", RATE]
    assert book.take("y", [], Rate("k", 2), 1.0) == RATE, "whoever asks"
    assert book.take("x", [], Rate("other", 2), 1.0) == ""
    assert book.take("x", [], Rate("k", 2), 31.0) == ""


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_one_who_waits_as_long_as_is_said_is_granted_it_then(amounts: list[int]) -> None:
    book, now = Book(), 0.0
    for amount in amounts:
        wait_s = book.spend("k", amount, 1000, now)
        assert 0 <= wait_s <= 60 + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert book.spend("k", amount, 1000, now) == 0.0


def test_a_note_is_given_once_and_not_too_late() -> None:
    book = Book()
    book.put("a", b"1", 10, 0.0)
    book.put("b", b"2", 10, 0.0)
    assert book.pop("a", 5.0) == b"1"
    assert book.pop("a", 5.0) is None
    assert book.pop("b", 10.0) is None


def test_notes_are_bounded_and_the_oldest_goes() -> None:
    book = Book()
    for n in range(10_001):
        book.put(str(n), b"", 60, 0.0)
    assert book.pop("0", 1.0) is None
    assert book.pop("1", 1.0) == b""


def test_what_has_been_made_up_for_is_forgotten() -> None:
    book = Book()
    for n in range(5000):
        book.spend(str(n), 1, 60, float(n))
    assert len(book._due) <= 1100
