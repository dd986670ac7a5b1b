"""The cost of a relay and its clients, and a comparison with a real tree of three levels.

At 30 events a second, one gateway has the events and relays follow it, each a process with an
embedded log. The costs of one relay, without clients and with some, predict the tree: 1 gateway, 2
relays of it, and 4 relays of those with the clients. The same costs, measured with enough clients
for writes to be batched, then size trees, and workers on Kafka, for more clients than one machine
can hold.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from statistics import median
from typing import NamedTuple

from bench import events, machine, sizing
from bench.child import Child
from bench.figures import Figure, at_most
from bench.sizing import Costs, Limits, Tree
from bench.stage import Stage, faults, seen

RATE = 30.0
FEW = 400
"""Clients of one relay, to measure the cost of a client of a leaf like those of the tree."""
MANY = 2000
"""Clients of one relay, to measure the cost of a client of a loaded node."""
LEAF = 250
"""Clients of each leaf of the tree; differs from the numbers that the costs are measured with."""
MEASURE_S = 8.0
_SETTLE_S = 4.0
_WITHIN = 25.0
SIZES = (10_000, 100_000, 1_000_000)
_LEVELS = (1, 2, 4)


class _Node(NamedTuple):
    """The resources that one process used."""

    share: float
    """The share of a core."""
    mib: float


@contextlib.contextmanager
def relay(stage: Stage, upstream: int) -> Generator[tuple[Child, int]]:
    """Run a gateway with an embedded log that follows the one at this port."""
    url = f"http://127.0.0.1:{upstream}"
    relays = {"up": {"url": url, "streams": [events.STREAM]}}
    with stage.gateway(stage.sqlite(), settings={"relays": relays}) as made:
        yield made


def used(pids: Sequence[int], seconds: float) -> list[_Node]:
    """Return the resources that the processes use over this time."""
    before = [machine.cpu_s(pid) for pid in pids]
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [
        _Node((machine.cpu_s(pid) - then) / passed, machine.memory_kib(pid) / 1024)
        for pid, then in zip(pids, before, strict=True)
    ]


class _Load(NamedTuple):
    node: _Node
    p50_ms: float
    faults: int


def loaded(stage: Stage, port: int, pid: int, clients: int) -> _Load:
    """Run a number of clients on one gateway, and return its load."""
    seconds = stage.seconds(MEASURE_S)
    settle = _SETTLE_S + clients / 500
    with stage.clients(
        port, clients, connect_s=settle / 2, warm_s=settle / 2, seconds=seconds
    ) as c:
        time.sleep(settle)
        [node] = used([pid], seconds - 1.0)
        found = seen(c, {"seconds": seconds})
    return _Load(node, found["p50_ms"], faults(found))


class _Run(NamedTuple):
    """The measurements of one run."""

    few: Costs
    """The costs with few clients, whose leaf is not loaded."""
    many: Costs
    tree: Tree
    """The tree as measured."""
    expected: Tree
    faults: int


def measure(stage: Stage) -> _Run:
    with stage.gateway(feed=RATE) as (root, root_port):
        direct = loaded(stage, root_port, root.pid, 20)
        with relay(stage, root_port) as (single, port):
            time.sleep(_SETTLE_S)
            [alone] = used([single.pid], stage.seconds(MEASURE_S))
            few = loaded(stage, port, single.pid, FEW)
            many = loaded(stage, port, single.pid, FEW if stage.quick else MANY)
    count = FEW if stage.quick else MANY
    costs = Costs(
        rate=RATE,
        event_bytes=events.frame_bytes(),
        relay_share=alone.share,
        client_share=(few.node.share - alone.share) / FEW,
        node_mib=alone.mib,
        client_kib=max(0.0, (many.node.mib - alone.mib) * 1024 / count),
        hop_ms=max(0.0, few.p50_ms - direct.p50_ms),
        direct_ms=direct.p50_ms,
    )
    loaded_costs = costs._replace(client_share=(many.node.share - alone.share) / count)
    tree, wrong = real_tree(stage)
    expected = sizing.predict(_LEVELS, LEAF * _LEVELS[-1], costs)
    total = direct.faults + few.faults + many.faults + wrong
    return _Run(costs, loaded_costs, tree, expected, total)


def real_tree(stage: Stage) -> tuple[Tree, int]:
    """Run three levels on this machine, and return the resources they use."""
    seconds = stage.seconds(MEASURE_S)
    with contextlib.ExitStack() as stack:
        root, root_port = stack.enter_context(stage.gateway(feed=RATE))
        mids = [stack.enter_context(relay(stage, root_port)) for _ in range(_LEVELS[1])]
        leaves = [
            stack.enter_context(relay(stage, mids[n % len(mids)][1])) for n in range(_LEVELS[2])
        ]
        time.sleep(_SETTLE_S)
        options = {"connect_s": 2.0, "warm_s": _SETTLE_S, "seconds": seconds}
        crowds = [stack.enter_context(stage.clients(port, LEAF, **options)) for _, port in leaves]
        time.sleep(2.0 + _SETTLE_S)
        pids = [root.pid, *(each.pid for each, _ in (*mids, *leaves))]
        nodes = used(pids, seconds - 1.0)
        found = [seen(crowd, options) for crowd in crowds]
    tree = Tree(
        _LEVELS,
        LEAF,
        sum(node.share for node in nodes),
        sum(node.mib for node in nodes) / 1024,
        median(each["p50_ms"] for each in found),
    )
    return tree, sum(map(faults, found))


def run(stage: Stage) -> list[Figure]:
    runs = [measure(stage) for _ in stage.runs(3)]
    few, many = [each.few for each in runs], [each.many for each in runs]
    trees = [each.tree for each in runs]
    expected = [each.expected for each in runs]
    costs = _median(many)
    return [
        Figure("relay without clients, of a core", [c.relay_share * 100 for c in few], "%"),
        Figure("relay, per event", [c.relay_share / RATE * 1e6 for c in few], "us"),
        Figure(f"client, {FEW} of a relay, per event", _per_event(few), "us"),
        Figure(f"client, {MANY:,} of a relay, per event", _per_event(many), "us"),
        Figure("relay without clients, memory", [c.node_mib for c in few], "MiB"),
        Figure("client, memory", [c.client_kib for c in few], "KiB"),
        Figure("latency without a relay, p50", [c.direct_ms for c in few], "ms"),
        Figure("a relay adds, p50", [c.hop_ms for c in few], "ms"),
        *_compared("processor, cores", trees, expected, "cores"),
        *_compared("memory, GiB", trees, expected, "memory_gib"),
        # Not predicted: eleven processes on one machine compete for its processors.
        Figure("tree: latency, p50", [tree.latency_ms for tree in trees], "ms"),
        Figure("events missed or doubled", [each.faults for each in runs], "", at_most(0)),
        *_sizes(costs),
    ]


def _median(all_: Sequence[Costs]) -> Costs:
    return Costs(*(median(values) for values in zip(*all_, strict=True)))  # type: ignore[arg-type]


def _per_event(costs: Sequence[Costs]) -> list[float]:
    return [each.client_share / RATE * 1e6 for each in costs]


def _compared(
    name: str, trees: Sequence[Tree], expected: Sequence[Tree], field: str
) -> list[Figure]:
    real = [float(getattr(tree, field)) for tree in trees]
    predicted = [float(getattr(tree, field)) for tree in expected]
    off = [abs(median(real) / median(predicted) - 1) * 100]
    return [
        Figure(f"tree: {name}", real),
        Figure(f"tree: {name}, predicted", predicted),
        Figure(f"tree: {name}, off by", off, "%", at_most(_WITHIN)),
    ]


def _sizes(costs: Costs) -> list[Figure]:
    limits = Limits()
    per_node, reason = sizing.clients_max(costs, limits)
    figures = [Figure(f"clients of a node at most (by {reason})", [per_node])]
    for clients in SIZES:
        tree = sizing.size(clients, costs, limits)
        levels = " > ".join(map(str, tree.levels))
        figures += [
            Figure(f"{clients:,} clients: nodes ({levels})", [tree.nodes]),
            Figure(f"{clients:,} clients: cores", [tree.cores]),
            Figure(f"{clients:,} clients: memory", [tree.memory_gib], "GiB"),
            Figure(f"{clients:,} clients: latency, p50", [tree.latency_ms], "ms"),
        ]
    for clients in SIZES:
        on_kafka = sizing.workers(clients, costs, limits)
        figures += [
            Figure(f"{clients:,} clients: workers on Kafka", [on_kafka.workers]),
            Figure(f"{clients:,} clients: cores of workers", [on_kafka.cores]),
            Figure(f"{clients:,} clients: Kafka sends", [on_kafka.kafka_bytes_s / 1e6], "MB/s"),
        ]
    return figures
