"""Trees of relays are sized by their costs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.sizing import Costs, Limits, clients_max, predict, size, workers

COSTS = Costs(
    rate=20,
    event_bytes=1_000,
    relay_share=0.1,
    client_share=0.0001,
    node_mib=64,
    client_kib=16,
    hop_ms=5,
    direct_ms=3,
)


def test_the_scarcest_resource_limits_a_node() -> None:
    assert clients_max(COSTS, Limits(core_share=0.6)) == (5_000, "processor")
    assert clients_max(COSTS, Limits(connections=4_000)) == (4_000, "connections")
    assert clients_max(COSTS, Limits(network_bytes_s=20_000_000)) == (1_000, "network")


def test_a_tree_has_the_required_size() -> None:
    assert size(1_000, COSTS, Limits()).levels == (1,)
    assert size(10_000, COSTS, Limits()).levels == (1, 2)
    tree = size(1_000_000, COSTS, Limits(connections=100))
    assert tree.levels == (1, 100, 10_000)
    assert (tree.clients_per_leaf, tree.latency_ms) == (100, 13)


@given(st.integers(1, 10**7), st.integers(2, 20_000))
def test_no_node_is_overloaded(clients: int, most: int) -> None:
    tree = size(clients, COSTS, Limits(connections=most))
    per_node, _ = clients_max(COSTS, Limits(connections=most))
    assert tree.levels[0] == 1
    assert tree.clients_per_leaf <= per_node
    for above, below in zip(tree.levels, tree.levels[1:], strict=False):
        assert above * per_node >= below
        assert (above - 1) * per_node < below


def test_the_sum_of_all_nodes_is_predicted() -> None:
    tree = predict((1, 2, 4), 1_000, COSTS)
    assert tree.nodes == 7
    assert round(tree.cores, 6) == round(0.7 + 1_006 * 0.0001, 6)
    assert round(tree.memory_gib * 1024, 6) == round(7 * 64 + 1_006 * 16 / 1024, 6)


@given(st.integers(1, 10**7))
def test_workers_on_kafka_are_as_many_as_the_leaves_of_a_tree(clients: int) -> None:
    on_kafka, tree = workers(clients, COSTS, Limits()), size(clients, COSTS, Limits())
    assert on_kafka.workers == tree.levels[-1]
    assert on_kafka.cores <= tree.cores
    assert on_kafka.memory_gib <= tree.memory_gib
    assert on_kafka.kafka_bytes_s == on_kafka.workers * 20 * 1_000
