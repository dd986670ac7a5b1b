"""String formats, validated as AJV 6 validates them in its default mode ("fast").

Producers rely on this behaviour, so a stricter check would refuse events that EventGate accepts.
Times are the exception: unless `lenient`, a date must exist in the calendar and a time must conform
to RFC 3339. A few formats that AJV does not know come from the library.

Patterns run in time linear in the length of the text, because clients choose texts. Those that are
run over long texts name letters of both cases: ignoring case takes up to twice the time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping

Format = Callable[[str], bool]

_SPACE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""White space in JavaScript."""
_WHITE = re.compile(f"[{_SPACE}]")
_LINE_END = re.compile("[\n\r\u2028\u2029]")


def _compiled_once(pattern: str, flags: int = 0) -> Callable[[], re.Pattern[str]]:
    """Return a function that compiles the pattern at its first call.

    Most schemas use few formats, and to compile all would take longer than to import the rest.
    """
    return functools.cache(lambda: re.compile(pattern, flags))


def _like(pattern: str) -> Format:
    """Return a test of whether the whole text matches, ignoring case.

    As in JavaScript, only ASCII letters have case, and only ASCII digits are digits.
    """
    compiled = _compiled_once(pattern, re.IGNORECASE | re.ASCII)

    def is_like(text: str) -> bool:
        return compiled().fullmatch(text) is not None

    return is_like


_SCHEME = r"[a-z][a-z0-9+\-.]*+:"
_HOSTNAME_MAX = 253
_BYTE = r"(?:25[0-5]|2[0-4]\d|[01]?\d\d?)"
_POINTER = r"(?:/(?:[^~]++|~[01])*+)?+"
_ENCODED = "%[0-9a-f]{2}"

_TEMPLATE_ENCODED = "%[0-9A-Fa-f]{2}"
_TEMPLATE_VARIABLE = (
    rf"(?:[A-Za-z0-9_]++(?:{_TEMPLATE_ENCODED}[A-Za-z0-9_]*+)*+"
    rf"|(?:{_TEMPLATE_ENCODED}[A-Za-z0-9_]*+)++)(?::[1-9][0-9]{{0,3}}|\*)?"
)
_TEMPLATE_LITERALS = r"""[^\x00-\x20"'<>%\\^`{|}]*+"""
_template = _compiled_once(
    rf"{_TEMPLATE_LITERALS}(?:(?:{_TEMPLATE_ENCODED}|\{{[+#./;?&=,!@|]?{_TEMPLATE_VARIABLE}"
    rf"(?:,{_TEMPLATE_VARIABLE})*+\}}){_TEMPLATE_LITERALS})*+"
)

_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"
    r"|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    rf"|{_LEAP_YEAR}-02-29)"
)
"""Matches a day of the Gregorian calendar, in which year 0 is a leap year."""
_ZONE = r"(?:z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_TIME = (
    rf"(?:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?{_ZONE}"
    rf"|([0-2]\d:[0-5]\d):60(?:\.\d+)?({_ZONE}))"
)
"""Matches a time. Its groups match only if the second is a leap second."""


def _leap_minutes() -> Iterator[str]:
    """Yield the hour, minute and zone of every minute that may have a leap second: the last of a
    UTC day.
    """
    for zone in range(-1439, 1440):
        local = (1439 + zone) % 1440
        sign = "-" if zone < 0 else "+"
        hour, minute = divmod(abs(zone), 60)
        yield f"{local // 60:02}:{local % 60:02}{sign}{hour:02}:{minute:02}"


_LEAP_MINUTES = frozenset((*_leap_minutes(), "23:59-00:00", "23:59z"))


def _like_time(pattern: str) -> Format:
    """Return a test like `_like`, for a pattern that ends in _TIME."""
    compiled = _compiled_once(pattern, re.IGNORECASE | re.ASCII)

    def is_like(text: str) -> bool:
        match = compiled().fullmatch(text)
        if match is None:
            return False
        if match.lastindex is None:
            return True
        return (match[1] + match[2]).lower() in _LEAP_MINUTES

    return is_like


_LENIENT_DATE = r"\d\d\d\d-[01]\d-[0-3]\d"
_LENIENT_TIME = r"(?:[0-2]\d:[0-5]\d:[0-5]\d|23:59:60)(?:\.\d+)?"
_LENIENT_ZONE = r"(?:z|[+-]\d\d(?::?\d\d)?)"


_IPV6_MAX = 45
"""Characters of the longest address: six groups and an IPv4 address."""
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_groups = _compiled_once(
    rf"(?:[0-9a-f]{{1,4}}:)*+(?:[0-9a-f]{{1,4}}|({_OCTET}(?:\.{_OCTET}){{3}}))", re.IGNORECASE
)
"""Matches the groups of an address; a trailing IPv4 address counts as two (RFC 4291, 2.2)."""


def _is_ipv6(text: str) -> bool:
    """Return whether the text is an IPv6 address. White space around it and a zone are allowed."""
    address, percent, zone = text.strip(_SPACE).partition("%")
    if len(address) > _IPV6_MAX or (percent and (not zone or _LINE_END.search(zone))):
        return False
    before, gap, behind = address.partition("::")
    count = 0
    for part in (before, behind):
        if part:
            match = _groups().fullmatch(part)
            if match is None:
                return False
            if match[1] is not None:
                if gap and part is before:
                    return False
                count += 1
            count += part.count(":") + 1
    return count <= 7 if gap else count == 8


_URL_SCHEME = re.compile(r"(?:https?|ftp)://", re.IGNORECASE | re.ASCII)
_URL_ADDRESS = (
    r"(?!(?:10|127)(?:\.[0-9]{1,3}){3}|(?:169\.254|192\.168)(?:\.[0-9]{1,3}){2})"
    r"(?!172\.(?:1[6-9]|2[0-9]|3[01])(?:\.[0-9]{1,3}){2})"
    r"(?:[1-9][0-9]?|1[0-9][0-9]|2[01][0-9]|22[0-3])"
    r"(?:\.(?:1?[0-9]{1,2}|2[0-4][0-9]|25[0-5])){2}"
    r"\.(?:[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-4])"
)
_URL_LETTERS = r"A-Za-z\xa1-\U0010ffff"
_URL_NAME = (
    rf"(?:[0-9{_URL_LETTERS}]++(?:-[0-9{_URL_LETTERS}]++)*+\.)++"
    rf"[{_URL_LETTERS}]{{2,}}+"
)
_url_host = _compiled_once(
    rf"@(?=[0-9{_URL_LETTERS}][^@/.]*+\.[^@/]*+(?:/|\Z))"
    rf"(?:{_URL_ADDRESS}|{_URL_NAME})(?::[0-9]{{2,5}})?(?=/|\Z)"
)
"""A user name and password may contain any character, so each @ may be the one before the host.
The look-ahead passes over most of those that are not, in less time."""


def _is_url(text: str) -> bool:
    """Return whether the text is an http, https or ftp URL with a public address or dotted name."""
    scheme = _URL_SCHEME.match(text)
    if scheme is None or _WHITE.search(text):
        return False
    rest = text[scheme.end() :]
    return _url_host().search(rest[1:] if rest.startswith("@") else "@" + rest) is not None


_EMAIL_USER = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+")
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_NAME_FLAW = re.compile(r"\.[.-]|-\.|(?:\A|\.)[^.]{64}")


def _is_name(text: str) -> bool:
    """Return whether the text is a host name with labels of at most 63 characters."""
    return _NAME_CHARACTERS.fullmatch(text) is not None and _NAME_FLAW.search(text) is None


def _is_email(text: str) -> bool:
    user, at, host = text.partition("@")
    return bool(at) and _EMAIL_USER.fullmatch(user) is not None and _is_name(host)


def _is_hostname(text: str) -> bool:
    name = text.removesuffix(".")
    return len(name) <= _HOSTNAME_MAX and _is_name(name)


def _is_template(text: str) -> bool:
    return _template().fullmatch(text) is not None


FORMATS: Mapping[str, Format] = {
    "date": _like(_DATE),
    "time": _like_time(_TIME),
    "date-time": _like_time(f"{_DATE}t{_TIME}"),
    "uri": _like(rf"{_SCHEME}[^{_SPACE}]*"),
    "uri-reference": _like(
        rf"(?:(?:{_SCHEME})?//?)?"
        rf"(?:[^\\{_SPACE}#][^{_SPACE}#]*+)?(?:#[^\\{_SPACE}]*)?"
    ),
    "uri-template": _is_template,
    "url": _is_url,
    "email": _is_email,
    "hostname": _is_hostname,
    "ipv4": _like(rf"(?:{_BYTE}\.){{3}}{_BYTE}"),
    "ipv6": _is_ipv6,
    "uuid": _like(r"(?:urn:uuid:)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"),
    "json-pointer": _like(_POINTER),
    "json-pointer-uri-fragment": _like(
        rf"#(?:/(?:[a-z0-9_\-.!$&'()*+,;:=@/]++|{_ENCODED}|~[01])*+)?+"
    ),
    "relative-json-pointer": _like(rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})"),
}  # fmt: skip
"""All formats of AJV except `regex`, which the library checks; the same for every draft."""

LENIENT_FORMATS: Mapping[str, Format] = {
    **FORMATS,
    "date": _like(_LENIENT_DATE),
    "time": _like(f"{_LENIENT_TIME}{_LENIENT_ZONE}?"),
    "date-time": _like(f"{_LENIENT_DATE}[t{_SPACE}]{_LENIENT_TIME}{_LENIENT_ZONE}"),
}
"""The same, but with AJV's checks of times: `2021-19-39T29:59:59Z` is valid."""
