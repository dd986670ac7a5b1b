"""sseclient (the older one, whose module has the same name): reconnects by itself."""

import builtins
import sys
from functools import partial

import report
import sseclient

report.say(version=f"sseclient {sseclient.__version__}, Python {sys.version.split()[0]}")
# It prints the reason of each reconnect to standard output.
vars(sseclient)["print"] = partial(builtins.print, file=sys.stderr)
try:
    for event in sseclient.SSEClient(report.URL):
        report.say(event=event.event, data=event.data, id=event.id)
    report.say(end="ends without an error")
except Exception as error:
    report.say(error=type(error).__name__)
