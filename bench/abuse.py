"""Attacks a gateway from one address, then from ten, and measures the effect on 100 innocent
clients.

The innocent clients follow a stream of 21 events a second on the embedded log, each from its own
address, with the limits of a public gateway. Each attack runs against a new gateway process: 5 s
without attack, 5 s from one address, 5 s from ten, and 5 s of recovery. Before that, in the first
run, ten addresses attack another gateway with another log for 5 s, and `p99, beside` is the latency
of the innocent clients meanwhile: what the attack costs them through the machine alone, which all
processes share, and not through their gateway. Latency is the time from when an event was due to
its arrival at an innocent client; an event that never arrived counts until the end. `stall` is the
longest pass of the gateway's event loop, in processor time. Meanwhile a bystander requests /healthz
and posts an event, five times a second each; `refused` counts its requests that failed, or had no
answer although the gateway had the processor time for it. `wrong` counts missing and duplicate
events and ended connections, over all innocent clients. In the rows that end in `by proxy`, the
attackers connect from the address of a trusted proxy, which names their own addresses.

`--only TEXT` chooses attacks by their names. One run of all takes twenty minutes: with
`--runs 1 --record FILE`, several runs at different times add up to medians.

With --quick, one gateway is exposed to all attacks from ten addresses in turn, and latencies have
no aims, because a busy machine changes them. Each attack lasts from its first request on and must
have sent at least one. It may end unanswered, because attackers wait for their own work.
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
import msgspec
import orjson

from bench import events
from bench.attackers import SENT
from bench.attacks import ATTACKS
from bench.child import Child, ChildFailed, module, running
from bench.figures import Aim, Figure, at_least, at_most, grid
from bench.sampling import Samples, sampled
from bench.stage import Stage, faults, seen

INNOCENTS, RATE = 100, 21
"""The rate is none at which events are in step with the 25 ms after which the embedded log looks at
what other processes have appended. Otherwise the latency without attack would depend on chance, 3
to 28 ms, and so would its ratio to the latency during an attack."""
HISTORY = 50_000
"""The number of events in the log at the start."""
BY_PROXY = (
    "filters, costly",
    "explain",
    "small posts",
    "invalid posts, [1,1,...]",
    "history",
    "tickets",
)
"""Attacks that are also made through a proxy, because their limits depend on the address it
names."""
_POSTED, _CLOSED, _ERRORS, _SCOPE = "bench.test", "bench.closed", "bench.error", "read:closed"
_SCHEMAS = Path(__file__).parents[1] / "config" / "schemas"
_WARM_S = 1.5
_PHASE_S = 5.0
_QUICK_S = 0.8
_QUICK_GROWTH_MIB = 256
"""The limit for all attacks together; the aim for a single attack is 64."""
_RECOVERY_S = 5.0
_SLACK_S = 30.0
_MEASURE_S_MAX = 600.0
_LATE_S = 0.25
"""The aim for the p99 of innocent clients. A gateway has recovered when no event is later than
this."""
_LATEST_S = 0.5
"""Events younger than this at the end need not have arrived."""
_DRAIN_S = 10.0

table = grid


class Keys(NamedTuple):
    """Values that attackers use, and the gateway's settings apart from the log."""

    catalogue: Path
    tokens: tuple[str, ...]
    settings: dict[str, Any]


class Phase(NamedTuple):
    """Latencies of the events due in a phase, and the longest stall of the event loop."""

    p50_ms: float
    p99_ms: float
    stall_ms: float


class Found(NamedTuple):
    """The results of one or several attacks on one gateway."""

    phases: list[Phase]
    """The phases; the first one is without attack."""
    recovery_s: float
    """Seconds until no event was later than _LATE_S; infinite if that never happened."""
    growth_mib: float
    wrong: int
    """Missing or duplicate events and ended connections, over all innocent clients."""
    asked: int
    """How many requests the bystander sent."""
    refused: int
    """Failed requests of the bystander."""
    answers: list[dict[str, int]]
    """Counts of the attackers' requests and the answers to them, for each attack."""
    drain_s: float
    """Seconds from SIGTERM until the process ended with status 0; infinite if it ended
    otherwise."""
    beside: Phase | None = None
    """While another gateway was attacked from ten addresses; None if that was not measured."""


class Strike(NamedTuple):
    """An attack and the addresses that it comes from."""

    name: str
    addresses: tuple[str, ...]
    proxied: bool = False


def run(stage: Stage) -> list[Figure]:
    chosen = {
        title: strikes
        for title, strikes in _strikes().items()
        if not stage.only or any(text in title for text in stage.only)
    }
    if not chosen:
        raise ChildFailed(f"no attack has a name that contains {' or '.join(stage.only)}")
    log, keys = filled_log(stage), make_keys(stage)
    if stage.quick:
        names = [title for title in chosen if title in ATTACKS]
        strikes = [Strike(name, addresses(n, 10)) for n, name in enumerate(names)]
        return _quick_figures(strikes, struck(stage, log, keys, strikes, seconds=_QUICK_S))
    found = {} if stage.record is None else recorded(stage.record)
    other_log = filled_log(stage)
    for _ in stage.runs(3):
        for title, strikes in chosen.items():
            other = None if title in found else other_log  # it hardly varies, so once is enough
            one = struck(stage, log, keys, strikes, seconds=_PHASE_S, other_log=other)
            print(f"{title}: {one}", flush=True)
            found.setdefault(title, []).append(one)
            if stage.record is not None:
                record(stage.record, title, one)
    return [figure for title, runs in found.items() for figure in _figures(title, runs)]


def _strikes() -> dict[str, list[Strike]]:
    """Return the attacks of each row of the table: from one address, then from ten."""
    rows = [(name, name, False) for name in ATTACKS]
    rows += [(f"{name}, by proxy", name, True) for name in BY_PROXY]
    return {
        title: [Strike(name, addresses(0, count), proxied) for count in (1, 10)]
        for title, name, proxied in rows
    }


def record(path: Path, title: str, found: Found) -> None:
    """Add a result to a file of JSON lines. Its numbers may be infinite."""
    with path.open("a") as file:
        file.write(json.dumps([title, found]) + "\n")


def recorded(path: Path) -> dict[str, list[Found]]:
    """Return the results in a file that `record` has written, by their titles."""
    results: dict[str, list[Found]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        title, found = json.loads(line)
        results.setdefault(title, []).append(msgspec.convert(found, Found))
    return results


def addresses(group: int, count: int) -> tuple[str, ...]:
    """Return the addresses of an attack. Groups differ, so limits from earlier attacks do not
    apply."""
    return tuple(f"127.0.{10 + group}.{n}" for n in range(1, count + 1))


def make_keys(stage: Stage) -> Keys:
    folder = stage.folder
    secret = secrets.token_hex(32)
    (folder / "abuse-secret").write_text(secret)
    claims = {"sub": "abuse", "exp": time.time() + 86_400, "scope": _SCOPE}
    longer = {**claims, "more": "x" * 5_000}
    catalogue = folder / "abuse.yaml"
    catalogue.write_bytes(
        orjson.dumps(
            {
                events.STREAM: {"topics": [events.TOPIC]},
                _CLOSED: {"topics": [_CLOSED], "scope": _SCOPE},
                _POSTED: {"topics": [_POSTED], "schema_title": "test/event"},
                _ERRORS: {"topics": [_ERRORS], "schema_title": "error"},
            }
        )
    )
    settings = {
        "schemas": [str(_SCHEMAS)],
        # 127.0.0.1 is a proxy; all other clients count by their own addresses.
        "http": {"port": 0, "trusted_proxies": ["127.0.0.1"], "access_log": False},
        # Caches are small, so they are full before memory is measured.
        "fanout": {"tail_bytes_max": 4 << 20, "cache_bytes_max": 8 << 20},
        "limits": {
            "connections_max": 1_000,
            "streams_max": 20_000,
            "client_ip_connections": 10,
            "client_ip_connects_per_minute": 60,
            "client_ip_catch_up_bytes_per_minute": 200_000_000,
        },
        "access": {"hs256_secret_file": str(folder / "abuse-secret")},
        "intake": {"error_stream": _ERRORS},
    }
    tokens = tuple(jwt.encode(each, secret, "HS256") for each in (claims, longer))
    return Keys(catalogue, tokens, settings)


def filled_log(stage: Stage) -> dict[str, Any]:
    log = stage.sqlite()
    with stage.producer(log, fill=HISTORY):
        return log


class Target(NamedTuple):
    """A gateway whose log gets events, and attackers of this gateway."""

    gateway: Child
    port: int
    producer: Child
    attackers: Child

    def strike(self, strike: Strike, seconds: float) -> dict[str, int]:
        """Attack for `seconds`. Returns counts of the attackers' requests and the answers."""
        step = orjson.dumps({**strike._asdict(), "attack": strike.name, "seconds": seconds})
        answers: dict[str, int] = self.attackers.ask(step.decode(), seconds + _SLACK_S)["answers"]
        return answers


@contextlib.contextmanager
def target(stage: Stage, log: dict[str, Any], keys: Keys) -> Generator[Target]:
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        # It waits for a gateway that is unresponsive while it holds the log's write lock.
        patient = {**log, "sqlite": {"busy_timeout_s": _MEASURE_S_MAX}}
        producer, _ = enter(stage.producer(patient, seq=events.FIRST_SEQ + HISTORY, feed=RATE))
        gateway, port = enter(stage.gateway(log, catalogue=keys.catalogue, settings=keys.settings))
        _use_a_filter(port)
        attackers = enter(
            _helper(
                stage,
                "attacking",
                port=port,
                stream=events.STREAM,
                topic=events.TOPIC,
                posted=_POSTED,
                tokens=keys.tokens,
            )
        )
        yield Target(gateway, port, producer, attackers)


@contextlib.contextmanager
def _helper(stage: Stage, name: str, **plan: Any) -> Generator[Child]:
    with running(module(f"{name}_process", plan), stage.folder / f"{name}.log") as child:
        child.answer(_SLACK_S)
        yield child


class Scene(NamedTuple):
    """A gateway that is attacked, its innocent clients and its bystander."""

    attacked: Target
    innocents: Child
    bystander: Child
    memory: Samples
    record: Path
    """The file with the arrivals of events at the innocent clients."""

    def stall_ms(self) -> float:
        """Return the longest pass of the event loop since the last call, in milliseconds."""
        try:
            stalled: float = self.attacked.gateway.ask("stall", _SLACK_S)["stall_ms"]
        except (ChildFailed, OSError):  # it is unresponsive or has ended
            return math.inf
        return stalled

    def drain_s(self) -> float:
        """Stop the gateway with SIGTERM. Returns how long that took."""
        gateway, began = self.attacked.gateway, time.monotonic()
        gateway.terminate()
        try:
            status = gateway.wait(_SLACK_S)
        except ChildFailed:
            return math.inf
        return math.inf if status else time.monotonic() - began


@contextlib.contextmanager
def scene(stage: Stage, log: dict[str, Any], keys: Keys) -> Generator[Scene]:
    record = Path(tempfile.mkdtemp(dir=stage.folder)) / "events"
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        attacked = enter(target(stage, log, keys))
        gateway, port = attacked.gateway, attacked.port
        memory = enter(sampled(gateway.pid))
        innocents = enter(
            stage.clients(port, INNOCENTS, connect_s=0.5, seconds=_MEASURE_S_MAX, record=record)
        )
        bystander = enter(_helper(stage, "bystander", port=port, pid=gateway.pid, stream=_POSTED))
        yield Scene(attacked, innocents, bystander, memory, record)


def _use_a_filter(port: int) -> None:
    """Use a filter, so that no attack is charged for loading the runtime of filters."""
    url = f"http://127.0.0.1:{port}/v2/explain?streams={events.STREAM}&filter=true"
    with httpx.Client(timeout=_SLACK_S) as client:
        client.get(url, headers={"X-Client-IP": "198.18.0.1"}).raise_for_status()


def struck(
    stage: Stage,
    log: dict[str, Any],
    keys: Keys,
    strikes: Sequence[Strike],
    *,
    seconds: float,
    other_log: dict[str, Any] | None = None,
) -> Found:
    """Run these attacks against one gateway in turn, each for `seconds`.

    With `other_log`, another gateway, whose log that is, first suffers the last attack.
    """
    with scene(stage, log, keys) as its:
        beside_s = None
        if other_log is not None:
            with target(stage, other_log, keys) as other:
                time.sleep(_WARM_S)
                began_s = time.time()
                other.strike(strikes[-1], seconds)
                beside_s = began_s, time.time()
        time.sleep(_WARM_S)
        beside_stall_ms = its.stall_ms()
        marks_s = [time.time()]
        time.sleep(seconds)
        stalls, answers = [its.stall_ms()], []
        for strike in strikes:
            marks_s.append(time.time())
            answers.append(its.attacked.strike(strike, seconds))
            stalls.append(its.stall_ms())
        marks_s.append(time.time())
        time.sleep(min(_RECOVERY_S, 2 * seconds))
        newest = its.attacked.producer.ask("next", _SLACK_S)["next"] - 1
        ended_s = time.time()
        time.sleep(_LATEST_S)
        asked = its.bystander.ask("found")["found"]
        its.innocents.terminate()
        load = seen(its.innocents, {"seconds": _MEASURE_S_MAX})
        drain_s = its.drain_s()
        memory = its.memory
        record = Record(its.record, newest, ended_s)
    return Found(
        phases=[
            Phase(*record.percentiles_ms(since_s, until_s), stall)
            for since_s, until_s, stall in zip(marks_s[:-1], marks_s[1:], stalls, strict=True)
        ],
        recovery_s=max(0.0, record.late_until_s() - marks_s[-1]),
        growth_mib=memory.peak_kib(marks_s[1]) / 1024 - memory.peak_kib(0, marks_s[1]) / 1024,
        wrong=faults(load),
        asked=len(asked),
        refused=sum(1 for *_, status in asked if status not in (200, 201)),
        answers=answers,
        drain_s=drain_s,
        beside=beside_s and Phase(*record.percentiles_ms(*beside_s), beside_stall_ms),
    )


class Record:
    """The arrivals of events at the innocent clients. Missing events count as arriving at the
    end."""

    def __init__(self, path: Path, newest: int, ended_s: float) -> None:
        """Read a record. `newest` is the number of the last event appended by `ended_s`."""
        numbers = array.array("q")
        numbers.frombytes(path.read_bytes())
        rows = list(zip(*[iter(numbers)] * 4, strict=True))
        made_s = {seq: made_ns / 1e9 for _, seq, made_ns, _ in rows}
        self._came = [(made_ns / 1e9, came_ns / 1e9) for _, _, made_ns, came_ns in rows]
        self._never = 0
        last = {client: seq for client, seq, _, _ in rows}
        known = max(made_s, default=newest)
        for client in range(INNOCENTS):
            for seq in range(last.get(client, known) + 1, newest + 1):
                due_s = made_s.get(seq) or made_s.get(known, ended_s) + (seq - known) / RATE
                if due_s < ended_s - _LATEST_S:
                    self._never += 1
                    self._came.append((due_s, ended_s))

    def percentiles_ms(self, since_s: float, until_s: float) -> tuple[float, float]:
        """Return the p50 and p99 latency of the events due in this period."""
        took = sorted(
            (came_s - made_s) * 1000 for made_s, came_s in self._came if since_s <= made_s < until_s
        )
        if not took:
            return math.inf, math.inf
        return took[len(took) // 2], took[int((len(took) - 1) * 0.99)]

    def late_until_s(self) -> float:
        """Return when the last event later than _LATE_S arrived; infinite if some never arrived."""
        if self._never:
            return math.inf
        late = [came_s for made_s, came_s in self._came if came_s - made_s > _LATE_S]
        return max(late, default=0.0)


def _figures(title: str, runs: list[Found]) -> list[Figure]:
    def figure(
        name: str, value: Callable[[Found], float], unit: str = "", aim: Aim | None = None
    ) -> Figure:
        return Figure(f"{title}: {name}", [value(each) for each in runs], unit, aim)

    beside = [run.beside.p99_ms for run in runs if run.beside]
    return [
        figure("p50 before", lambda run: run.phases[0].p50_ms, "ms"),
        figure("p50, one", lambda run: run.phases[1].p50_ms, "ms"),
        figure("p50, ten", lambda run: run.phases[2].p50_ms, "ms"),
        figure("p99 before", lambda run: run.phases[0].p99_ms, "ms"),
        figure("p99, one", lambda run: run.phases[1].p99_ms, "ms", at_most(_LATE_S * 1000)),
        figure("p99, ten", lambda run: run.phases[2].p99_ms, "ms", at_most(_LATE_S * 1000)),
        Figure(f"{title}: p99, beside", beside or [math.nan], "ms"),
        figure("p99 / before", _ratio, "x", at_most(3)),
        figure("stall", lambda run: max(each.stall_ms for each in run.phases[1:]), "ms"),
        figure("growth", lambda run: run.growth_mib, "MiB", at_most(64)),
        figure("recovery", lambda run: run.recovery_s, "s", at_most(_RECOVERY_S)),
        figure("wrong", lambda run: run.wrong, "", at_most(0)),
        figure("refused", lambda run: run.refused, "", at_most(0)),
        figure("drain", lambda run: run.drain_s, "s", at_most(_DRAIN_S)),
    ]


def _ratio(run: Found) -> float:
    before, *during = (each.p99_ms for each in run.phases)
    return max(during) / before


def _quick_figures(strikes: Sequence[Strike], found: Found) -> list[Figure]:
    names = ("no attack", *(strike.name for strike in strikes))
    figures: list[Figure] = []
    for name, phase in zip(names, found.phases, strict=True):
        figures += [
            Figure(f"{name}: p50", [phase.p50_ms], "ms"),
            Figure(f"{name}: p99", [phase.p99_ms], "ms"),
            Figure(f"{name}: stall", [phase.stall_ms], "ms", at_most(_LATE_S * 1000)),
        ]
    for strike, answers in zip(strikes, found.answers, strict=True):
        sent = answers.get(SENT, 0)
        figures += [
            Figure(f"{strike.name}: sent", [sent], "", at_least(1)),
            Figure(f"{strike.name}: answers", [sum(answers.values()) - sent]),
        ]
    return [
        *figures,
        Figure("all: growth", [found.growth_mib], "MiB", at_most(_QUICK_GROWTH_MIB)),
        Figure("all: recovery", [found.recovery_s], "s", at_most(60)),
        Figure("all: wrong", [found.wrong], "", at_most(0)),
        Figure("all: asked", [found.asked], "", at_least(1)),
        Figure("all: refused", [found.refused], "", at_most(0)),
        Figure("all: drain", [found.drain_s], "s", at_most(_SLACK_S)),
    ]
