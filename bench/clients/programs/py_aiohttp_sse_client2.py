"""aiohttp-sse-client2: reconnects by itself after a clean end; a cut it raises."""

import asyncio

import report
from aiohttp_sse_client2.client import EventSource

CONNECTIONS_MAX = 4


async def connect(last_id: str | None) -> None:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with EventSource(report.URL, headers=headers) as source:
        async for event in source:
            report.say(event=event.type, data=event.data, id=event.last_event_id)
            if event.last_event_id:
                report.LAST.append(event.last_event_id)


report.versions("aiohttp-sse-client2", "aiohttp")
report.by_hand(lambda last_id: asyncio.run(connect(last_id)))
