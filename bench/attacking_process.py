"""The attackers of `abuse`, in a process of their own.

Its argument is an `attackers.Plan`. Each line on its standard input is an `attackers.Step`; when
that is over, it prints {"answers"}: how often each status came, and how often a connection failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter

import msgspec
import uvloop

from bench import child
from bench.attackers import Attacker, Pace, Plan, Step
from bench.attacks import ATTACKS


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
        async with asyncio.timeout(step.seconds), asyncio.TaskGroup() as group:
            for number in range(len(step.addresses)):
                attacker = Attacker(plan, step, number, counted=answers, pace=pace)
                group.create_task(attack.act(attacker))
    return answers


if __name__ == "__main__":
    main()
