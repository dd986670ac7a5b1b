"""Formats are checked as by AJV; only times are stricter by default."""

from __future__ import annotations

import datetime
import ipaddress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SchemaError
from eventstreams.schemas.formats import FORMATS, LENIENT_FORMATS
from eventstreams.schemas.validation import Validator
from tests.support.effort import least_quiet_s
from tests.support.schema_folders import schema

DRAFT_04 = "http://json-schema.org/draft-04/schema#"


@pytest.mark.parametrize("lenient", [True, False])
@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("uri-reference", "https://en.wikipedia.org/w/api.php?titles=A|B", True),
        ("uri-reference", "https://de.wikipedia.org/wiki/Käse", True),
        ("uri-reference", "a b", False),
        ("uri", "https://de.wikipedia.org/wiki/Käse", True),
        ("uri", "/wiki/Käse", False),
        ("url", "https://de.wikipedia.org/wiki/Käse", True),
        ("url", "https://user:secret@example.org:8080/@x", True),
        ("url", "http://localhost/", False),
        ("url", "http://10.0.0.1/", False),
        ("email", "a@localhost", True),
        ("email", "käse@example.org", False),
        ("hostname", "example.org.", True),
        ("hostname", "a" * 64, False),
        ("ipv4", "01.02.03.04", True),
        ("ipv4", "256.1.1.1", False),
        ("ipv6", " fe80::1%eth0 ", True),
        ("ipv6", "1::2::3", False),
        ("uuid", "urn:uuid:123E4567-e89b-12d3-a456-426614174000", True),
        ("uri-template", "/wiki/{title:3}{?q*}", True),
        ("uri-template", "/wiki/{title", False),
        ("json-pointer", "/a~1b", True),
        ("json-pointer", "/a~2b", False),
        ("json-pointer-uri-fragment", "#/a%20b", True),
        ("relative-json-pointer", "1/a", True),
        ("relative-json-pointer", "01", False),
    ],
)
def test_formats_are_checked_as_by_ajv(name: str, text: str, valid: bool, lenient: bool) -> None:
    formats = LENIENT_FORMATS if lenient else FORMATS
    assert formats[name](text) is valid


@pytest.mark.parametrize(
    ("name", "text", "lenient", "default"),
    [
        ("date", "2026-19-39", True, False),
        ("date", "2026-02-29", True, False),
        ("date", "2024-02-29", True, True),
        ("date-time", "2026-01-31T12:00:00+01", True, False),
        ("date-time", "2026-01-31 12:00:00Z", True, False),
        ("date-time", "2026-01-01T00:00:61Z", False, False),
        ("date-time", "2026-01-01T00:00:60Z", False, False),
        ("date-time", "2026-12-31T23:59:60Z", True, True),
        ("date-time", "2026-12-31T18:59:60-05:00", False, True),
        ("date-time", "2026-12-31T24:00:00Z", True, False),
        ("date-time", "2026-01-31T12:00:00", False, False),
        ("time", "12:00:00", True, False),
        ("time", "29:00:00Z", True, False),
        ("time", "12:00:00.5+01:00", True, True),
    ],
)
def test_only_real_times_pass_unless_lenient(
    name: str, text: str, lenient: bool, default: bool
) -> None:
    assert (LENIENT_FORMATS[name](text), FORMATS[name](text)) == (lenient, default)


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("draft", [DRAFT_04, DRAFT_04.replace("04", "07")])
def test_every_format_of_ajv_is_known_in_every_draft(name: str, draft: str) -> None:
    field = {"type": "string", "format": name, "maxLength": 9}
    found = Validator(
        schema("/a/1.0.0", **{"$schema": draft, "properties": {"x": field}}), "f"
    ).validate({"x": "a\\ b"})
    assert [problem.keyword for problem in found] == ["format"]


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(SchemaError, match="Unknown format"):
        Validator({"format": "colour"}, "f")


_LONG = ["a", "a.", "/", "@", "1:", "%41", "{a}", "~0", "x@", "a-", "::", "http://a@"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_long_text_takes_linear_time(name: str) -> None:
    """A quadratic algorithm would not end."""
    for piece in _LONG:
        for text in (piece * 100_000 + "\n", "http://" + piece * 100_000):
            FORMATS[name](text)
            LENIENT_FORMATS[name](text)


_HOSTILE = [
    *("http://" + "@" * 10**6, "http://" + "a@" * 500_000, "http://" + "a@b.c" * 200_000),
    *("a@" + "a." * 500_000, "a@" + ("a" * 63 + ".") * 16_000, "a." * 500_000),
    *("{" + "a," * 500_000, "{a}" * 333_000, "#" + "/" * 10**6, "/" * 10**6, "1" + "/" * 10**6),
]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_time_per_character_is_bounded(name: str) -> None:
    """A check blocks the event loop, for as much text as an event may have."""
    for text in _HOSTILE:
        check = partial(FORMATS[name], text)
        assert least_quiet_s(check, enough_s=0.13) <= 0.13, text[:20]


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("url", "http://a@b:c@example.org/", True),
        ("url", "http://@example.org", False),
        ("url", "http://@@example.org", True),
        ("url", "http://a@example.org:80/", True),
        ("url", "http://example.org:8", False),
        ("url", "http://a-.org", False),
        ("url", "http://a.b-c", False),
        ("email", "a@b@c.org", False),
        ("email", "a@b..c", False),
        ("email", "a@b.-c", False),
        ("email", "a@b.c.", False),
        ("email", "a@" + "b" * 64, False),
        ("email", "a@x." + "b" * 63, True),
        ("hostname", ".".join(["a" * 62] * 4), True),
        ("hostname", ".".join(["a" * 63] * 4), False),
        ("json-pointer", "a/b", False),
        ("json-pointer", "//~0~1", True),
        ("json-pointer-uri-fragment", "#//%41", True),
        ("json-pointer-uri-fragment", "#a", False),
    ],
)
def test_host_names_and_pointers_are_checked_completely(name: str, text: str, valid: bool) -> None:
    assert FORMATS[name](text) is valid


_IPV6_PARTS = ["::", ":", "0", "1", "fFfF", "12345", "g", "1.2.3.4", "01.2.3.4", "1.2.3.256", "."]
_IPV6 = st.ip_addresses(v=6).flatmap(
    lambda address: st.sampled_from(
        [address.compressed, address.exploded, f"::{address.exploded}", f"::ffff:1.2.{address}"]
    )
)


@given(_IPV6 | st.lists(st.sampled_from(_IPV6_PARTS), max_size=17).map("".join))
def test_ipv6_addresses_are_those_that_python_accepts(text: str) -> None:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        valid = False
    else:
        valid = len(text) <= 45
    assert FORMATS["ipv6"](text) is valid


@given(st.sampled_from(sorted(FORMATS)), st.text())
def test_any_text_gets_a_verdict(name: str, text: str) -> None:
    assert isinstance(FORMATS[name](text), bool)
    assert isinstance(LENIENT_FORMATS[name](text), bool)


def test_dates_must_exist() -> None:
    for year in (1, 4, 100, 400, 1900, 2000, 2023, 2024, 2100, 9996):
        for month in range(14):
            for day in range(33):
                try:
                    datetime.date(year, month, day)
                except ValueError:
                    exists = False
                else:
                    exists = True
                text = f"{year:04}-{month:02}-{day:02}"
                assert FORMATS["date"](text) is exists, text
    assert FORMATS["date"]("0000-02-29")


@given(st.integers(0, 23), st.integers(0, 59), st.integers(-1439, 1439))
def test_a_leap_second_is_the_last_second_of_a_utc_day(hour: int, minute: int, zone: int) -> None:
    sign = "-" if zone < 0 else "+"
    offset = f"{sign}{abs(zone) // 60:02}:{abs(zone) % 60:02}"
    is_last = (60 * hour + minute - zone) % 1440 == 1439
    assert FORMATS["time"](f"{hour:02}:{minute:02}:60.5{offset}") is is_last
    local = (1439 + zone) % 1440
    assert FORMATS["date-time"](f"2026-06-30T{local // 60:02}:{local % 60:02}:60{offset}")
