"""Runs benches by name, prints a table for each and keeps RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import sys
import time
from pathlib import Path
from types import FrameType, ModuleType

from bench import charts, machine, results
from bench.child import ChildFailed
from bench.figures import table
from bench.stage import Stage

NAMES = (
    "latency",
    "catch_up",
    "start",
    "trickle",
    "steady",
    "busy",
    "idle",
    "stalled",
    "storm",
    "cohorts",
    "compressed",
    "filters",
    "many_filters",
    "intake",
    "propagate",
    "drain",
    "tree",
    "soak",
    "abuse",
)
_WITH_KAFKA = {"latency", "catch_up", "storm", "start", "intake"}
_QUIET = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--quick", action="store_true", help="one short run each; keeps nothing")
    parser.add_argument("--full-hour", action="store_true", help="soak for an hour")
    parser.add_argument("--runs", type=int, metavar="N", help="how often each figure is measured")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="abuse: only attacks whose names contain TEXT, or another such TEXT; keeps nothing",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="abuse: add each result to FILE, and make the figures from all results in it",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.list:
        for name in NAMES:
            print(f"{name:10} {_about(_module(name)).splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    names = [name for name in NAMES if name in options.names or not options.names]
    stage = Stage(
        quick=options.quick,
        full_hour=options.full_hour,
        run_count=options.runs,
        only=options.only,
        record=options.record,
    )
    try:
        return _run(names, stage)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(names: list[str], stage: Stage) -> int:
    status = 0
    try:
        for name in names:
            try:
                status |= _bench(stage, name)
            except ChildFailed as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                status = 1
    finally:
        stage.close()
    return status


def _bench(stage: Stage, name: str) -> int:
    """Run a bench. Returns 0 if every aim is met.

    If something cannot be measured, this raises and keeps no results.
    """
    bench = _module(name)
    busy = machine.busy_share()
    print(f"\n== {name}: {_about(bench)}\n", flush=True)
    began = time.monotonic()
    figures = bench.run(stage)
    shown = getattr(bench, "table", table)(figures)
    print(f"{shown}\n\n{name} took {time.monotonic() - began:.0f} s", flush=True)
    measured = machine.describe(kafka=name in _WITH_KAFKA)
    if busy > _QUIET:
        note = f"other work took {busy:.0%} of the machine before this run"
        print(f"not a quiet machine: {note}", flush=True)
        measured += f"; {note}"
    if not (stage.quick or stage.only):
        section = results.section(name, _about(bench), measured, shown)
        results.keep({name: section}, NAMES)
        charts.draw()
    return int(any(figure.is_met is False for figure in figures))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


def _about(bench: ModuleType) -> str:
    return inspect.getdoc(bench) or ""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
