"""requests-sse: reconnects by itself."""

import report
from requests_sse import EventSource

report.versions("requests-sse", "requests")
try:
    with EventSource(report.URL, timeout=60) as source:
        for event in source:
            report.say(event=event.type, data=event.data, id=event.last_event_id)
    report.say(end="ends without an error")
except Exception as error:
    report.say(error=type(error).__name__)
