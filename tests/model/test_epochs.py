"""Finds where the logs of a reader and a leader diverge, by their epochs alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.model.epochs import NO_EPOCH, NO_EPOCHS, EpochEnd, Epochs


class Replica:
    """A copy of a partition: the epoch of each record, and the epochs that it knows as a leader."""

    def __init__(self) -> None:
        self.records: list[int] = []
        self.terms: dict[int, int] = {}
        """The start of each epoch, as brokers keep it: also for a leader without records."""

    def lead(self, epoch: int, count: int) -> None:
        self.terms[epoch] = len(self.records)
        self.records += [epoch] * count

    def follow(self, leader: Replica, end: int) -> None:
        self.records = leader.records[:end]
        self.terms = {e: at for e, at in leader.terms.items() if at < end}

    def end_of(self, epoch: int) -> EpochEnd:
        """Return the answer of a leader to a question for this epoch."""
        known = max((e for e in self.terms if e <= epoch), default=None)
        if known is None:
            return EpochEnd(epoch, min(self.terms.values()))
        later = [at for e, at in self.terms.items() if e > known]
        return EpochEnd(known, min(later, default=len(self.records)))

    def read(self, end: int) -> Epochs:
        found = NO_EPOCHS
        for offset, epoch in enumerate(self.records[:end]):
            found = found.then(Epochs((offset,), (epoch,)))
        return found


shares = st.sampled_from([None, 0, 0.5, 0.5, 1])
"""The share of the leader's log that a replica copies; None if it does not reach the leader."""
elections = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), shares, shares, shares),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300)
@given(elections, st.integers(0, 7), st.sampled_from([0.5, 1, 1, 1]))
def test_repeated_questions_find_where_two_logs_diverge(
    elections: list[tuple[int, int, float | None, float | None, float | None]],
    when: int,
    share: float,
) -> None:
    replicas = [Replica() for _ in range(3)]
    leader = replicas[0]
    read: list[int] = []
    epochs = NO_EPOCHS
    for epoch, (leads, count, *copied) in enumerate(elections):
        leader = replicas[leads]
        leader.lead(epoch, count)
        if epoch == when % len(elections):
            end = round(share * len(leader.records))
            read, epochs = leader.records[:end], leader.read(end)
        for replica, part in zip(replicas, copied, strict=True):
            if replica is not leader and part is not None:
                replica.follow(leader, round(part * len(leader.records)))
    same = zip(read, leader.records, strict=False)
    common = next(
        (n for n, (a, b) in enumerate(same) if a != b), min(len(read), len(leader.records))
    )
    at = len(read)
    while at > 0:
        answer = leader.end_of(epochs.at(at - 1))
        if answer.epoch == epochs.at(at - 1) and answer.end >= at:
            break
        before, at = at, epochs.common_end(at, answer)
        assert common <= at < before, "no common record is given up, and there is progress"
        epochs = epochs.before(at)
    assert at == common


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=100))
def test_each_record_of_the_last_elections_has_its_epoch(runs: list[tuple[int, int]]) -> None:
    found, records = NO_EPOCHS, []
    for epoch, count in runs:
        found = found.then(Epochs((len(records),), (epoch,)))
        records += [epoch] * count
    assert len(found.starts) <= 64
    for offset, epoch in enumerate(records):
        known = bool(found.starts) and offset >= found.starts[0]
        assert found.at(offset) == (epoch if known else NO_EPOCH)
    assert found.before(0) == NO_EPOCHS


def test_only_the_last_elections_are_remembered() -> None:
    epochs = NO_EPOCHS
    for term in range(1_000):
        epochs = epochs.then(Epochs((10 * term,), (term,)))
        assert epochs.at(10 * term + 5) == term
    assert len(epochs.starts) == len(epochs.epochs) <= 64
    assert epochs.at(5) == NO_EPOCH
