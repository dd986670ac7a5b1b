"""Computes how many gateways serve a number of clients, from measured costs.

They are a tree of relays, or workers that all read the same topics of Kafka.

A node is one process on one core. It may use a share of its core, a number of connections, and a
share of its network. Leaves serve clients. Each level above serves the relays of the level below,
which cost as much as clients. The top is a single node, which has the events. A worker on Kafka is
taken to cost as much by itself as a relay, which reads and appends each event. Nothing here does
any input or output.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Costs(NamedTuple):
    """The costs measured at one rate of events."""

    rate: float
    """Events per second."""
    event_bytes: int
    """Bytes on the wire, including framing and id."""
    relay_share: float
    """Share of a core used by a node that relays and has no clients."""
    client_share: float
    """Share of a core used by each client of a node with many clients."""
    node_mib: float
    """Memory of a node without clients."""
    client_kib: float
    hop_ms: float
    """Latency that one relay adds, in the median."""
    direct_ms: float
    """Latency of a client of the node that has the events."""


class Limits(NamedTuple):
    """The limits of a node."""

    core_share: float = 0.6
    """The share of a core to use; the rest is for bursts, reconnects and replays."""
    connections: int = 16_000
    network_bytes_s: float = 0.6 * 10e9 / 8


class Tree(NamedTuple):
    levels: tuple[int, ...]
    """The number of nodes of each level, from the top to the leaves."""
    clients_per_leaf: int
    cores: float
    memory_gib: float
    latency_ms: float

    @property
    def nodes(self) -> int:
        return sum(self.levels)


class Workers(NamedTuple):
    """Gateways that read the same topics of Kafka."""

    workers: int
    cores: float
    memory_gib: float
    kafka_bytes_s: float
    """What the brokers send to all workers together."""


def clients_max(costs: Costs, limits: Limits) -> tuple[int, str]:
    """Return how many clients or relays a node serves, and which limit determines that."""
    by = {
        "processor": (limits.core_share - costs.relay_share) / costs.client_share,
        "connections": float(limits.connections),
        "network": limits.network_bytes_s / (costs.rate * costs.event_bytes),
    }
    reason = min(by, key=lambda name: by[name])
    return max(2, math.floor(by[reason])), reason


def size(clients: int, costs: Costs, limits: Limits) -> Tree:
    """Return the smallest tree with equal leaves."""
    per_node, _ = clients_max(costs, limits)
    levels = [math.ceil(clients / per_node)]
    while levels[0] > 1:
        levels.insert(0, math.ceil(levels[0] / per_node))
    return predict(tuple(levels), clients, costs)


def workers(clients: int, costs: Costs, limits: Limits) -> Workers:
    """Return the smallest number of workers on Kafka, and the resources they use."""
    needed = math.ceil(clients / clients_max(costs, limits)[0])
    return Workers(
        needed,
        needed * costs.relay_share + clients * costs.client_share,
        (needed * costs.node_mib + clients * costs.client_kib / 1024) / 1024,
        needed * costs.rate * costs.event_bytes,
    )


def predict(levels: tuple[int, ...], clients: int, costs: Costs) -> Tree:
    """Return the resources that this tree uses."""
    relays = sum(levels) - 1
    served = clients + relays
    return Tree(
        levels,
        math.ceil(clients / levels[-1]),
        sum(levels) * costs.relay_share + served * costs.client_share,
        (sum(levels) * costs.node_mib + served * costs.client_kib / 1024) / 1024,
        costs.direct_ms + (len(levels) - 1) * costs.hop_ms,
    )
