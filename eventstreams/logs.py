"""What the process says of itself: one JSON object a line, on standard error.

Keys: `time` (UTC), `level`, `logger`, `message`, then whatever a call gave in `extra`, and
`exception` where there is one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What ends a line for somebody, moves a terminal's cursor, or turns the order of letters round: it
comes in names and user agents, and stands in a line as its escape."""


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
            return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        except TypeError:  # a number beyond 64 bits, half of a surrogate pair
            return json.dumps(line, default=repr)


def log_to_stderr(level: str) -> None:
    """Sends all logs of the process to standard error, those of libraries from warnings on.

    `level` is debug, info, warning or error, and holds for this package.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("eventstreams").setLevel(level.upper())
    # It warns of each request that is none, and anyone can send as many of those as they like.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
