"""sseclient-py: takes an open response and shows events, does not reconnect."""

import report
import requests
import sseclient


def connect(last_id: str | None) -> None:
    headers = {"Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    with requests.get(report.URL, stream=True, headers=headers, timeout=(10, 60)) as response:
        response.raise_for_status()
        for event in sseclient.SSEClient(response).events():
            report.say(event=event.event, data=event.data, id=event.id)
            if event.id:
                report.LAST.append(event.id)


report.versions("sseclient-py", "requests")
report.by_hand(connect)
