"""Runs benches by name, prints a table for each and keeps RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import sys
import time
from types import FrameType, ModuleType

from bench import machine, results
from bench.child import ChildFailed
from bench.figures import table
from bench.stage import Stage

NAMES = (
    "latency",
    "catch_up",
    "start",
    "steady",
    "busy",
    "idle",
    "stalled",
    "storm",
    "cohorts",
    "compressed",
    "filters",
    "intake",
    "drain",
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
    try:
        return _run(names, quick=options.quick, full_hour=options.full_hour)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(names: list[str], *, quick: bool, full_hour: bool) -> int:
    stage = Stage(quick=quick, full_hour=full_hour)
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
    """Returns 0 where every aim is met. What can't be measured raises, and keeps nothing."""
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
    if not stage.quick:
        section = results.section(name, _about(bench), measured, shown)
        results.keep({name: section}, NAMES)
    return int(any(figure.is_met is False for figure in figures))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


def _about(bench: ModuleType) -> str:
    return inspect.getdoc(bench) or ""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
