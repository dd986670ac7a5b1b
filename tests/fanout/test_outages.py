"""Outages: which partitions are unreachable, and since when. Later reports change nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import LogUnavailable
from eventstreams.fanout.outages import Outages, names
from eventstreams.model.event import Partition

PARTITIONS = [Partition(topic, number) for topic in "tu" for number in range(2)]
QUIET_S = 5.0

steps = st.lists(
    st.tuples(
        st.integers(0, 9),  # seconds before the step
        st.sampled_from(["follower", "reader", "heard"]),
        st.sets(st.sampled_from(PARTITIONS)),
    ),
    max_size=20,
)


@given(steps, st.integers(0, 30))
def test_patience_runs_from_the_first_report_to_recovery(
    todo: list[tuple[int, str, set[Partition]]], patience_s: int
) -> None:
    outages = Outages(quiet_s=QUIET_S)
    since: dict[Partition, int] = {}
    complained: dict[Partition, int] = {}
    now = 0
    for passed, what, partitions in todo:
        now += passed
        if what == "heard":
            for partition in partitions:
                assert outages.end(partition) == (partition in since)
                since.pop(partition, None)
                complained.pop(partition, None)
        else:
            error = LogUnavailable("no leader", partitions)
            new = outages.begin(partitions, error, now, follower=what == "follower")
            assert set(new) == partitions - since.keys()
            for partition in partitions:
                since.setdefault(partition, now)
                if what == "follower":
                    complained[partition] = now
        assert outages.partitions == since.keys()
        assert bool(outages) == bool(since)
        over = {p for p, began in since.items() if now - began > patience_s}
        assert outages.longer_than(patience_s, now) == over
        left = [began + patience_s - now for p, began in since.items() if p not in over]
        assert outages.until_patience_ends_s(patience_s, now) == min(left, default=None)
        for partition in PARTITIONS:
            quiet = partition not in complained or now - complained[partition] > QUIET_S
            assert outages.is_quiet(partition, now) == quiet
        error = outages.error(PARTITIONS)
        assert (error.partitions if error else set()) == since.keys()


def test_errors_name_the_unreachable_partitions() -> None:
    outages = Outages(quiet_s=QUIET_S)
    error = LogUnavailable("no leader", PARTITIONS[1:])
    outages.begin(error.partitions, error, 0, follower=True)
    assert str(outages.error(PARTITIONS[:2])) == "t/1 is unreachable: no leader"
    assert str(outages.error(PARTITIONS)) == "t/1 and 2 more are unreachable: no leader"
    assert outages.error(PARTITIONS[:1]) is None
    assert names(outages.partitions) == ["t/1", "u/0", "u/1"]
