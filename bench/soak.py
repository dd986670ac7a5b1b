"""An hour of mixed load on one gateway with a full disk log, after which nothing may be left
behind.

The load: SSE clients that connect, leave, stall, reset and resume; filters, fields, gzip and zstd,
NDJSON, history and bounded streams; tokens that expire, and tickets; valid and invalid posted
events; requests refused by limits; an operator who closes streams; catalogue reloads; scrapes of
metrics; malformed requests. All of this runs at once, in rounds with a rest after each: six of 10
min with `scripts/bench --full-hour soak`, otherwise three of 40 s. Resources left by the first
round are allocated once; any that later rounds add would be a leak.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from pathlib import Path
from statistics import linear_regression
from typing import Any, NamedTuple

import orjson

from bench import events
from bench.child import Child, module, running
from bench.figures import Aim, Figure, at_least, at_most
from bench.sampling import sampled
from bench.stage import PATH, Stage, free_port, seen
from bench.visitors import VISITORS

CLIENTS, RATE = 120, 25
"""The number of plain clients, one per address, and the events a second."""
_KEPT_BYTES = 2 << 20
_FILL = 3000
"""The number of events at the start; more than the log keeps."""
_STAY_S = 5.0
_ADDRESS_STREAMS, _ADDRESS_CONNECTS = 4, 40
_CLOSED, _SCOPE = "bench.closed", "read:closed"
_POSTED, _ERRORS = "bench.test", "bench.error"
_CLOSED_RATE = 5
_SCHEMAS = Path(__file__).parents[1] / "config" / "schemas"
_PATHS = (
    PATH,
    f"{PATH}?since=-10s",
    f"{PATH}?fields=ts,seq,title",
    f"{PATH}?filter=event.seq%20%3E%200",
    f"{PATH}?heartbeat=checkpoint",
)
_SETTLE_S = 20.0
_SLACK_S = 60.0


class _Aims(NamedTuple):
    """The maximum growth of memory (MiB) and objects per minute."""

    at_rest: Aim
    under_load: Aim | None = None
    objects: Aim | None = None


_HOUR = _Aims(at_most(0.1), at_most(0.25), at_most(500))
_SHORT = _Aims(at_most(2))
_QUICK = _Aims(at_most(60))
"""Over seconds, most growth is memory that the allocator retains for a while."""


class _Round(NamedTuple):
    load: dict[str, Any]
    visits: dict[str, Any]
    busy: list[tuple[float, float]]
    """(min, MiB): memory while clients are connected."""
    rest_min: float
    rest: dict[str, Any]
    """The gateway's report after clients have left and free memory was returned."""


def run(stage: Stage) -> list[Figure]:
    rounds = 2 if stage.quick else 6 if stage.full_hour else 3
    seconds = 600.0 if stage.full_hour else 7.0 if stage.quick else 40.0
    log, keys = _log(stage), _Keys(stage.folder)
    with (
        stage.producer(log, fill=_FILL, feed=RATE),
        stage.producer(log, topic=_CLOSED, feed=_CLOSED_RATE),
        _gateway(stage, log, keys) as gateway,
    ):
        found = [
            _round(stage, keys, gateway, number=number, seconds=seconds) for number in range(rounds)
        ]
    return _figures(found, _HOUR if stage.full_hour else _QUICK if stage.quick else _SHORT)


class _Keys:
    """Values stored in files, and the paths of these."""

    def __init__(self, folder: Path) -> None:
        self.secret, self.admin = secrets.token_hex(32), secrets.token_hex(32)
        self.metrics_port = free_port()
        (folder / "secret").write_text(self.secret)
        (folder / "admin").write_text(self.admin)
        self.catalogue = folder / "soak.yaml"
        self.paths = folder / "paths"
        self.paths.write_text("\n".join(_PATHS))
        self.catalogue.write_bytes(
            orjson.dumps(
                {
                    events.STREAM: {"topics": [events.TOPIC]},
                    _CLOSED: {"topics": [_CLOSED], "scope": _SCOPE},
                    _POSTED: {"topics": [_POSTED], "schema_title": "test/event"},
                    _ERRORS: {"topics": [_ERRORS], "schema_title": "error"},
                }
            )
        )
        self.settings = {
            "catalogue_refresh_s": 1.0,
            "schemas": [str(_SCHEMAS)],
            "fanout": {
                "stall_timeout_s": 2.0,
                "heartbeat_s": 2.0,
                "tail_bytes_max": 1 << 20,
                "cache_bytes_max": 4 << 20,
            },
            "limits": {
                "client_ip_connections": _ADDRESS_STREAMS,
                "client_ip_connects_per_minute": _ADDRESS_CONNECTS,
            },
            "access": {
                "hs256_secret_file": str(folder / "secret"),
                "leeway_s": 0.0,
                "admin_key_file": str(folder / "admin"),
            },
            "intake": {"error_stream": _ERRORS},
            "metrics": {"port": self.metrics_port},
        }
        """Caches are small, so they are full after the first round."""


def _log(stage: Stage) -> dict[str, Any]:
    """Return the settings of a log that retains fewer events than it holds at the start."""
    kept = {"retention_bytes": _KEPT_BYTES, "retention_every_s": 1.0, "sync": "normal"}
    return {**stage.sqlite(), "sqlite": kept}


def _gateway(stage: Stage, log: dict[str, Any], keys: _Keys) -> Any:
    # 127.0.0.1 is a proxy that names its clients; the load's clients use other addresses.
    http = {"port": 0, "trusted_proxies": ["127.0.0.1"], "access_log": False}
    settings = {**keys.settings, "http": http}
    return stage.gateway(log, catalogue=keys.catalogue, settings=settings)


def _round(
    stage: Stage, keys: _Keys, served: tuple[Child, int], *, number: int, seconds: float
) -> _Round:
    gateway, port = served
    visits = {
        "port": port,
        "metrics_port": keys.metrics_port,
        "pid": gateway.pid,
        "seconds": seconds,
        "seed": number,
        "catalogue": str(keys.catalogue),
        "stream": events.STREAM,
        "closed": _CLOSED,
        "scope": _SCOPE,
        "posted": _POSTED,
        "secret": keys.secret,
        "admin_key": keys.admin,
        "client_streams": _ADDRESS_STREAMS,
        "client_connects": _ADDRESS_CONNECTS,
    }
    options = {
        "paths": keys.paths,
        "connect_s": 1,
        "seconds": seconds,
        "churn_s": _STAY_S,
        "seed": number,
    }
    began_min = time.monotonic() / 60
    with (
        sampled(gateway.pid) as memory,
        running(module("visiting_process", visits), stage.folder / "visiting.log") as visiting,
        stage.clients(port, CLIENTS, **options) as load,
    ):
        loaded = seen(load, options)
        visited = visiting.answer(_SLACK_S)
    busy = [(began_min + at / 60, kib / 1024) for at, kib, _ in memory.kib]
    rest = _at_rest(gateway)
    for wrong in visited["wrong"]:
        print(f"round {number}: {wrong}", flush=True)
    print(f"round {number}: {visited['done']}", flush=True)
    return _Round(loaded, visited, busy, time.monotonic() / 60, rest)


def _at_rest(gateway: Child) -> dict[str, Any]:
    """Wait until the clients are gone, and return a report, or what is still held after a time
    limit."""
    until = time.monotonic() + _SETTLE_S
    while gateway.ask("report")["streams"] and time.monotonic() < until:
        time.sleep(0.5)
    return gateway.ask("report trimmed")


def _figures(rounds: list[_Round], aims: _Aims) -> list[Figure]:
    done: Counter[str] = sum((Counter(each.visits["done"]) for each in rounds), Counter())
    ended = "eventstreams_streams_ended_total stalled"
    first, last = rounds[0].rest, rounds[-1].rest
    wrong = ("missing", "doubled", "errors", "refused", "torn_chunks", "ids_cut")
    rests = [(each.rest_min, each.rest["memory_kib"] / 1024) for each in rounds]
    blocks = [(each.rest_min, each.rest["blocks"]) for each in rounds]
    busy = [sample for each in rounds[1:] for sample in each.busy[len(each.busy) // 2 :]]

    def sums(*names: str) -> float:
        return float(sum(each.load[name] for each in rounds for name in names))

    return [
        Figure("streams of plain clients", [sums("came")]),
        Figure("of these left, reset or stopped reading", [sums("left", "reset", "stalled")]),
        Figure("closed as stalled", [last["metrics"].get(ended, 0)], "", at_least(1)),
        Figure("visits of other kinds", [sum(done[each.__name__] for each in VISITORS)]),
        Figure("events read and checked", [sums("events") + done["event read"]]),
        Figure("events posted and read", [done["event posted"]], "", at_least(1)),
        Figure("gaps reported after long absence", [sums("gaps") + done["gap reported"]]),
        Figure("missing, doubled or wrong, plain clients", [sums(*wrong)], "", at_most(0)),
        Figure("answers or events that were wrong, others", [_wrong(rounds)], "", at_most(0)),
        Figure("memory at rest, growth a minute", [_slope(rests)], "MiB", aims.at_rest),
        Figure("memory under load, growth a minute", [_slope(busy)], "MiB", aims.under_load),
        Figure("objects at rest, growth a minute", [_slope(blocks)], "", aims.objects),
        Figure("memory at rest, first and last", [rests[0][1], rests[-1][1]], "MiB"),
        Figure("memory under load, most", [max(mib for _, mib in busy)], "MiB"),
        Figure("streams left over", [last["streams"]], "", at_most(0)),
        Figure("leases left over", [last["leases"]], "", at_most(0)),
        *(
            Figure(f"{name} left over", [last[name] - first[name]], "", at_most(0))
            for name in ("tasks", "files")
        ),
    ]


def _wrong(rounds: list[_Round]) -> float:
    return float(sum(each.visits["wrong_count"] for each in rounds))


def _slope(points: list[tuple[float, float]]) -> float:
    minutes, values = zip(*points, strict=True)
    return float(linear_regression(minutes, values).slope)
