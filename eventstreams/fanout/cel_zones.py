"""The time zones that a filter may name.

The runtime opens a zone's name as a file: below the system's folder of zones, or wherever a name
that begins with `/` or `file:` leads. What it has opened once it keeps for ever. So only names of
installed zones are let through, and offsets, for which it opens nothing.
"""

from __future__ import annotations

import re
import zoneinfo

_OFFSET = re.compile(r"[+-]?(?:0?\d|1\d|2[0-3]):[0-5]\d", re.ASCII)
_NOT_ZONES = frozenset({"Factory", "localtime", "posixrules"})
"""Names in the folder that stand for no place: what they mean is up to the machine."""


_INSTALLED = frozenset(zoneinfo.available_timezones()) - _NOT_ZONES
"""Read when this is imported: later, the event loop would wait for the disk."""


def is_zone(name: str) -> bool:
    """Whether it is an installed IANA zone or an offset from UTC, like -05:30."""
    return _OFFSET.fullmatch(name) is not None or name in _INSTALLED
