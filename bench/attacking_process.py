"""Runs the attackers of `abuse` in a separate process.

Its argument is an `attackers.Plan`. Each line on its standard input is an `attackers.Step`. When
the step has lasted for its time, counted from the first request, it prints {"answers"}: how many
requests or parts of them were sent, how often each status was received, and how often a connection
failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter

import msgspec
import uvloop

from bench import child
from bench.attackers import SENT, Attacker, Pace, Plan, Step
from bench.attacks import ATTACKS

_BEGIN_S = 20.0
"""The time within which an attack must have sent something."""


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    child.say({"port": plan.port})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            step = msgspec.json.decode(line, type=Step)
            child.say({"answers": runner.run(_attack(plan, step))})


async def _attack(plan: Plan, step: Step) -> Counter[str]:
    attack = ATTACKS[step.attack]
    answers: Counter[str] = Counter()
    pace = Pace(attack.rate)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BEGIN_S) as limit, asyncio.TaskGroup() as group:
            for number in range(len(step.addresses)):
                attacker = Attacker(plan, step, number, counted=answers, pace=pace)
                group.create_task(attack.act(attacker))
            while not answers[SENT]:
                await asyncio.sleep(0.01)
            limit.reschedule(asyncio.get_running_loop().time() + step.seconds)
    return answers


if __name__ == "__main__":
    main()
