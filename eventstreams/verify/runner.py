"""Runs checks one at a time, so that they hardly burden a public gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventstreams.errors import SseEventTooLarge
from eventstreams.verify.check import Check
from eventstreams.verify.target import Target
from eventstreams.verify.verdict import Skipped, Verdict, Wrong, failed
from eventstreams.verify.wire import BadHttp, CannotConnect, IncompleteResponse, TooManyRequests

_OVER = Verdict("skipped", "the time for the run is over: pass a longer --time")


@dataclass(frozen=True)
class Result:
    check: Check
    verdict: Verdict
    seconds: float


async def run(
    target: Target,
    checks: Sequence[Check],
    *,
    check_s: float,
    budget_s: float,
    on_start: Callable[[Check], None] = lambda _: None,
) -> list[Result]:
    """Return one result per check.

    `check_s` limits each check, `budget_s` the whole run; checks beyond the budget are skipped.

    Raises PostRefused, and CannotConnect if the gateway cannot be reached at the beginning.
    """
    end = time.monotonic() + budget_s
    results: list[Result] = []
    for check in checks:
        began = time.monotonic()
        # A timer may fire just before its time, which leaves a moment that no check must use.
        is_over = bool(results) and results[-1].verdict is _OVER
        left_s = 0.0 if is_over else end - began
        on_start(check)
        verdict = await _verdict(target, check, check_s, left_s, is_first=not results)
        results.append(Result(check, verdict, time.monotonic() - began))
    return results


async def _verdict(
    target: Target, check: Check, check_s: float, left_s: float, *, is_first: bool
) -> Verdict:
    if left_s <= 0:
        return _OVER
    try:
        async with asyncio.timeout(min(check_s, left_s)):
            return await check.run(target)
    except TimeoutError:
        is_over = left_s < check_s
        return _OVER if is_over else failed(f"did not finish within {check_s:g} s")
    except (Skipped, TooManyRequests) as reason:
        return Verdict("skipped", str(reason))
    except (Wrong, BadHttp, IncompleteResponse, SseEventTooLarge, CannotConnect) as error:
        if is_first and isinstance(error, CannotConnect):
            raise
        return failed(str(error))
