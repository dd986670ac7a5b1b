"""Appends to a log from a separate process, as producers do.

Its argument: {"log": {...}, "topic", "seq": first number, "fill": events to append at once,
"plain": whether those are simple, "feed": events a second after that}. It prints {"next"}, the
number after the last event, after filling, and again for each line on its standard input.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from bench import child, pace
from eventstreams.config.settings import LogSettings
from eventstreams.gateway import open_log
from eventstreams.tasks import background


class Plan(msgspec.Struct, frozen=True):
    log: LogSettings
    topic: str
    seq: int
    fill: int = 0
    plain: bool = False
    feed: float = 0.0


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_produce(plan))


async def _produce(plan: Plan) -> None:
    following = plan.seq + plan.fill

    def appended(seq: int) -> None:
        nonlocal following
        following = seq + 1

    log = open_log(plan.log)
    await log.start()
    try:
        await log.create_topic(plan.topic, 1)
        await pace.fill(log, plan.fill, plan.seq, plan.topic, plain=plan.plain)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        feed = pace.feed(log, plan.feed, following, plan.topic, appended)
        async with background(*[feed] if plan.feed else []):
            child.say({"next": following})
            while await reader.readline():
                child.say({"next": following})
    finally:
        await log.aclose()


if __name__ == "__main__":
    main()
