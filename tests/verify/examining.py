"""Runs checks against a gateway on loopback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from eventstreams.verify.check import Check
from eventstreams.verify.registry import CHECKS
from eventstreams.verify.runner import Result, run
from eventstreams.verify.target import Patience, Post, Target
from eventstreams.verify.wire import Client

QUICK = Patience(
    answer_s=30.0, event_s=30.0, quiet_s=5.0, live_s=30.0, heartbeat_s=30.0, drain_s=30.0
)


def target_at(
    port: int,
    streams: Sequence[str],
    *,
    patience: Patience = QUICK,
    post: Post | None = None,
    template: dict[str, Any] | None = None,
    drain: Callable[[], Awaitable[None]] | None = None,
    headers: dict[str, str] | None = None,
) -> Target:
    client = Client(
        host="127.0.0.1",
        port=port,
        tls=None,
        headers={"User-Agent": "test", **(headers or {})},
        requests_max=1000,
        pause_s=0,
    )
    return Target(
        client=client,
        root="",
        streams=tuple(streams),
        patience=patience,
        post=post,
        template=template,
        drain=drain,
    )


async def examine(
    target: Target,
    names: Sequence[str] = (),
    *,
    on_start: Callable[[Check], None] = lambda _: None,
) -> dict[str, Result]:
    """Run all checks, or these, and return the results by name."""
    checks = [check for check in CHECKS if not names or check.name in names]
    results = await run(target, checks, check_s=600, budget_s=3600, on_start=on_start)
    return {result.check.name: result for result in results}


def failures(results: dict[str, Result]) -> dict[str, str]:
    """Return the evidence of failures."""
    return _with(results, "fail")


def skipped(results: dict[str, Result]) -> dict[str, str]:
    return _with(results, "skipped")


def _with(results: dict[str, Result], outcome: str) -> dict[str, str]:
    found = {name: result.verdict for name, result in results.items()}
    return {n: verdict.evidence for n, verdict in found.items() if verdict.outcome == outcome}
