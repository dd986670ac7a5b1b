"""Points in time as clients write them: in `since` and `until`, and in a Last-Event-ID."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_AGO = re.compile(r"-(?P<count>\d{1,12})(?P<unit>[smhd])", re.IGNORECASE | re.ASCII)
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d+)?", re.ASCII)
# ISO 8601 as Date.parse takes it; a "+" of the zone may have become a space in the query string.
_ISO = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<time>\d{2}:\d{2}(?::\d{2})?)(?P<fraction>[.,]\d{1,9})?"
    r"\s?(?P<zone>Z|[+\- ]?\d{2}:?\d{2})?)?",
    re.IGNORECASE | re.ASCII,
)


def parse_instant(text: str) -> int | None:
    """Milliseconds since 1970 in UTC, or None where `text` is no time.

    Takes a number of milliseconds; ISO 8601 dates and times, with `T` or a space, to the minute or
    finer, UTC where no zone is given; RFC 2822. Fractions below a millisecond are cut off.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return int(float(text)) if "." in text else int(text)
    iso = _ISO.fullmatch(text)
    try:
        if iso is None:
            return _milliseconds(parsedate_to_datetime(text))
        return _from_iso(iso)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_moment(text: str, now_ms: int) -> int | None:
    """As `parse_instant`, and besides `earliest` (0) and a time before now as `-15m`.

    Units are s, m, h and d.
    """
    text = text.strip()
    match = _AGO.fullmatch(text)
    if match is not None:
        return now_ms - int(match["count"]) * _UNITS_MS[match["unit"].lower()]
    if text.lower() == "earliest":
        return 0
    return parse_instant(text)


def iso_of(timestamp_ms: int | None) -> str | None:
    """None where the time is not known (0), or not in the calendar."""
    if not timestamp_ms:
        return None
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _from_iso(iso: re.Match[str]) -> int:
    zone = iso["zone"] or "Z"
    if zone[0] not in "Zz+-":
        zone = "+" + zone.strip()
    fraction = (iso["fraction"] or ".0")[1:7].ljust(6, "0")
    stamp = f"{iso['date']}T{iso['time'] or '00:00'}"
    whole = _milliseconds(datetime.fromisoformat(stamp + zone.upper()))
    return whole + int(fraction) // 1000


def _milliseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000
