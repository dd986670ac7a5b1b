"""Runs visitors of every kind at one gateway, all at once, from a separate process.

Its argument is a `visits.Plan`. When done it prints one line: visits by kind, what they read and
posted, the number of faults, and descriptions of the first ones.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from bench import child
from bench.visitors import VISITORS, Posted
from bench.visits import PATIENCE_S, Place, Plan, Visitor
from eventstreams.tasks import background

_PAUSE_S = 3.0
_READ_S = 8.0


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        place = runner.run(_visit(plan))
    child.say(
        {
            "done": place.done,
            "unread": len(place.due),
            "wrong_count": place.wrong_count,
            "wrong": place.wrong,
        }
    )
    sys.stdin.read()


async def _visit(plan: Plan) -> Place:
    place = Place(plan)
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(plan.seconds, over.set)
    async with place.http, background(_read_posted(place)):
        async with asyncio.TaskGroup() as coming:
            for visitor, count in VISITORS.items():
                for _ in range(count):
                    coming.create_task(_come_again(place, visitor, over))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while place.due:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            place.check(False, f"never read: {len(place.due)} of what was posted")
    return place


async def _come_again(place: Place, visitor: Visitor, over: asyncio.Event) -> None:
    await place.pause(_PAUSE_S)
    while not over.is_set():
        try:
            await visitor(place)
        except Exception as error:
            place.check(False, f"{visitor.__name__}: {error!r}")
        place.done[visitor.__name__] += 1
        await place.pause(_PAUSE_S)


async def _read_posted(place: Place) -> None:
    reader = Posted(place)
    while True:
        await reader.visit(place.chance.uniform(0.5, _READ_S))


if __name__ == "__main__":
    main()
