"""Parses times as clients write them: in `since` and `until`, and in a Last-Event-ID."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_LENGTH_MAX = 200
"""The maximum length of a time. JavaScript's Date prints shorter texts in every language."""
_AGO = re.compile(r"-(?P<count>\d{1,12})(?P<unit>[smhd])", re.IGNORECASE | re.ASCII)
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d+)?", re.ASCII)
_SECONDS = re.compile(r"(?P<whole>\d{9,10})(?:\.(?P<fraction>\d+))?", re.ASCII)
_YEAR = re.compile(r"(19[7-9]|2\d\d)\d", re.ASCII)
_COMPACT = re.compile(
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})"
    r"(?:(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2}))?",
    re.ASCII,
)
_MILLISECOND_DIGITS_MAX = 13
_ZONE = r"\s?(?P<zone>Z|[+\- ]?\d{2}(?::?\d{2})?)?"
# ISO 8601 as Date.parse accepts it. In a query string the "+" of a zone may have become a space.
_ISO = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{2})(?:-(?P<day>\d{2}))?"
    r"(?:[T ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?:[.,](?P<fraction>\d{1,9}))?"
    + _ZONE
    + ")?",
    re.IGNORECASE | re.ASCII,
)
# Other English forms of dates that Date.parse accepts, and what a JavaScript Date and the command
# `date` print.
_MONTH = r"(?P<name>[a-z]{3,9})\.?"
_CLOCK = (
    r"(?:[,T ]\s*(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
    r"(?:\.(?P<fraction>\d{1,9}))?(?:\s?(?P<half>[ap]m))?)?"
)
_NAMED_ZONE = (
    r"(?:\s?(?:Z|(?:GMT|UTC|UT)?(?P<zone>[+\- ]\d{2}:?\d{2})?|GMT|UTC|UT))(?:\s?\([^)]*\))?"
)
_ENGLISH = [
    re.compile(rf"(?:[a-z]{{3,9}},?\s+)?{form}", re.IGNORECASE | re.ASCII)
    for form in (
        rf"(?P<day>\d{{1,2}})[ -]{_MONTH}[ -](?P<year>\d{{4}}){_CLOCK}{_NAMED_ZONE}",
        rf"{_MONTH} (?P<day>\d{{1,2}}),? (?P<year>\d{{4}}){_CLOCK}{_NAMED_ZONE}",
        rf"{_MONTH} (?P<day>\d{{1,2}}){_CLOCK}{_NAMED_ZONE} (?P<year>\d{{4}})",
        rf"(?P<year>\d{{4}})[-/](?P<month>\d{{1,2}})[-/](?P<day>\d{{1,2}}){_CLOCK}{_NAMED_ZONE}",
        rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/(?P<year>\d{{4}}){_CLOCK}{_NAMED_ZONE}",
    )
]
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH_NAMES = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_ABBREVIATIONS = ("tues", "weds", "thur", "thurs", "sept")
_ZONE_NAMES = re.compile(r"(^|[^a-z])(ut|utc|gmt|z|[ecmp][sd]t)$|[^a-z]$", re.IGNORECASE)
"""How a date of RFC 2822 may end. The names of other zones are ambiguous."""


def parse_timestamp(text: str) -> int | None:
    """Return milliseconds since 1970 in UTC, or None if `text` is not a time.

    `text` may be a number of milliseconds; an ISO 8601 month, date or time, with `T` or a space; a
    date of RFC 2822; or an English date that JavaScript's Date.parse accepts. A time without a zone
    is UTC. Fractions of a millisecond are dropped.
    """
    text = "" if len(text) > _LENGTH_MAX else text.strip()
    if _NUMBER.fullmatch(text):
        return int(float(text)) if "." in text else int(text)
    try:
        iso = _ISO.fullmatch(text)
        if iso is not None:
            return _from_fields(iso.groupdict())
        for form in _ENGLISH:
            english = form.fullmatch(text)
            if english is not None:
                return _from_english(text, english.groupdict())
        if not _ZONE_NAMES.search(text):
            return None
        return _milliseconds(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_moment(text: str, now_ms: int) -> int | None:
    """Return what `parse_timestamp` returns, and accept more forms that people write in a URL.

    These are `earliest` (0); a time before now such as `-15m`, in units of s, m, h and d; and
    numbers whose count of digits shows that they are not milliseconds: 4 digits are a year, 8 a
    date, 14 a timestamp of MediaWiki, 9 and 10 are seconds since 1970. Other numbers of more than
    13 digits return None.
    """
    text = "" if len(text) > _LENGTH_MAX else text.strip()
    if _NUMBER.fullmatch(text):
        return _number(text)
    match = _AGO.fullmatch(text)
    if match is not None:
        return now_ms - int(match["count"]) * _UNITS_MS[match["unit"].lower()]
    if text.lower() == "earliest":
        return 0
    return parse_timestamp(text)


def iso_of(timestamp_ms: int | None) -> str | None:
    """Return the time in ISO 8601, or None if it is not known (0) or beyond the calendar."""
    if not timestamp_ms:
        return None
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(text: str) -> int | None:
    seconds = _SECONDS.fullmatch(text)
    if seconds is not None:
        fraction = (seconds["fraction"] or "")[:3].ljust(3, "0")
        return int(seconds["whole"]) * 1000 + int(fraction)
    compact = _COMPACT.fullmatch(text)
    if _YEAR.fullmatch(text):
        return _milliseconds(datetime(int(text), 1, 1, tzinfo=UTC))
    if compact is not None:
        try:
            return _from_fields(compact.groupdict())
        except (ValueError, OverflowError):
            if compact["hour"] is not None:
                return None
    digits = text.lstrip("+-").partition(".")[0]
    if len(digits) > _MILLISECOND_DIGITS_MAX:
        return None
    return parse_timestamp(text)


def _from_english(text: str, fields: dict[str, str | None]) -> int:
    """Raises ValueError."""
    words = re.findall(r"[a-z]{3,}", text.partition("(")[0].lower())
    for word in words:
        known = (*_MONTH_NAMES, *_DAYS, *_ABBREVIATIONS, "gmt", "utc")
        if not any(full.startswith(word) for full in known):
            raise ValueError(f"{word} is not the name of a month or a day")
    name = fields.get("name")
    if name is not None:
        months = [full[:3] for full in _MONTH_NAMES]
        fields["month"] = str(months.index(name[:3].lower()) + 1)
    half, hour = (fields.get("half") or "").lower(), int(fields["hour"] or 0)
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"{hour} {half} is not a time")
        fields["hour"] = str(hour % 12 + (12 if half == "pm" else 0))
    return _from_fields(fields)


def _from_fields(fields: dict[str, str | None]) -> int:
    """Raises ValueError, OverflowError."""
    number = {
        name: int(fields.get(name) or default)
        for name, default in (("year", 0), ("month", 1), ("day", 1), ("hour", 0), ("minute", 0))
    }
    second = int(fields.get("second") or 0)
    thousandths = int((fields.get("fraction") or "")[:3].ljust(3, "0"))
    days = 0
    if number["hour"] == 24:  # the end of that day, in ISO 8601
        if number["minute"] or second or thousandths:
            raise ValueError("a day ends at 24:00")
        number["hour"], days = 0, 1
    moment = datetime(**number, second=second, tzinfo=UTC)
    whole = _milliseconds(moment) + days * _UNITS_MS["d"]
    return whole + thousandths - _zone_ms(fields.get("zone"))


def _zone_ms(zone: str | None) -> int:
    """Return the offset of `Z`, `+01:00`, `-0100` or `+01`. Without a sign it is positive.

    Raises ValueError.
    """
    if not zone or zone in "Zz":
        return 0
    digits = re.sub(r"\D", "", zone).ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"{zone} is not a time zone")
    size_ms = hours * _UNITS_MS["h"] + minutes * _UNITS_MS["m"]
    return -size_ms if zone[0] == "-" else size_ms


def _milliseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000
