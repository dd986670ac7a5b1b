"""A commit never passes an event in flight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventstreams.propagation.frontier import CommitFrontier


class Frontier(RuleBasedStateMachine):
    """Events begin in order, with holes, and finish in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.frontier = CommitFrontier(5)
        self.begun: list[int] = []
        self.open: set[int] = set()
        self.committed = 5

    @rule(hole=st.integers(0, 3))
    def begin(self, hole: int) -> None:
        offset = self.frontier.next + hole
        self.frontier.begin(offset)
        self.begun.append(offset)
        self.open.add(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        offset = data.draw(st.sampled_from(sorted(self.open)))
        self.frontier.finish(offset)
        self.open.remove(offset)

    @rule(hole=st.integers(0, 5))
    def skip(self, hole: int) -> None:
        self.frontier.skip_to(self.frontier.next + hole)

    @invariant()
    def nothing_in_flight_is_passed(self) -> None:
        position = self.frontier.position
        assert all(offset >= position for offset in self.open)
        assert position == min(self.open, default=self.frontier.next)
        assert self.frontier.in_flight == len(self.open)

    @invariant()
    def it_never_goes_back(self) -> None:
        assert self.frontier.position >= self.committed
        self.committed = self.frontier.position


TestFrontier = Frontier.TestCase


def test_an_offset_begins_once_and_in_order() -> None:
    frontier = CommitFrontier(0)
    frontier.begin(3)
    with pytest.raises(ValueError, match="below the next offset"):
        frontier.begin(3)


@given(st.permutations(range(6)), st.integers(0, 6))
def test_after_a_crash_every_unfinished_event_is_read_again(
    order: list[int], finished: int
) -> None:
    frontier = CommitFrontier(0)
    for offset in range(6):
        frontier.begin(offset)
    for offset in order[:finished]:
        frontier.finish(offset)
    again = set(range(frontier.position, 6))
    assert again >= set(order[finished:])


def test_an_event_finishes_once() -> None:
    frontier = CommitFrontier(0)
    frontier.begin(0)
    frontier.finish(0)
    with pytest.raises(ValueError, match="not in flight"):
        frontier.finish(0)
