"""httpx-sse: shows events, does not reconnect."""

import httpx
import report
from httpx_sse import connect_sse


def connect(last_id: str | None) -> None:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with (
        httpx.Client(timeout=httpx.Timeout(10, read=60)) as client,
        connect_sse(client, "GET", report.URL, headers=headers) as source,
    ):
        source.response.raise_for_status()
        for event in source.iter_sse():
            report.say(event=event.event, data=event.data, id=event.id)
            if event.id:
                report.LAST.append(event.id)


report.versions("httpx-sse", "httpx")
report.by_hand(connect)
