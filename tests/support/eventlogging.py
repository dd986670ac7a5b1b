"""Log lines in the format of EventLogging's web servers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote


def line(message: Any, number: int = 1, schema: str = "Test") -> str:
    capsule = {"schema": schema, "revision": 13, "event": {"OtherMessage": message}}
    query = quote(json.dumps(capsule))
    return f"?{query}; srv0.example.org {number} 2013-01-19T23:16:38 - Mozilla/5.0 (X11)"
