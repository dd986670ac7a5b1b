"""Times as clients write them, with datetime as the judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.instant import parse_instant

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


def moments_from(year: int) -> st.SearchStrategy[datetime]:
    naive = datetime(year, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001 - the zone is drawn
    return st.datetimes(*naive, timezones=zones)


moments = moments_from(1)


def milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


@given(moments, st.sampled_from(["T", " ", "t"]))
def test_iso_times_are_read_as_datetime_reads_them(moment: datetime, separator: str) -> None:
    assert parse_instant(moment.isoformat(separator)) == milliseconds(moment)


@given(moments)
def test_a_plus_that_became_a_space_is_understood(moment: datetime) -> None:
    text = moment.isoformat()
    assert parse_instant(text.replace("+", " ")) == milliseconds(moment)


@given(moments, st.sampled_from(["hours", "minutes", "seconds", "milliseconds", "microseconds"]))
def test_any_precision_down_to_the_minute_is_read(moment: datetime, timespec: str) -> None:
    text = moment.isoformat(timespec=timespec)
    if timespec == "hours":
        assert parse_instant(text) is None
    else:
        assert parse_instant(text) == milliseconds(datetime.fromisoformat(text))


@given(moments)
def test_without_a_zone_a_time_is_utc(moment: datetime) -> None:
    there = moment.replace(tzinfo=UTC)
    for text in (there.replace(tzinfo=None).isoformat(), there.isoformat()[:-6] + "Z"):
        assert parse_instant(text) == milliseconds(there)


@given(moments)
def test_a_zone_needs_no_colon(moment: datetime) -> None:
    text = moment.isoformat()
    if text[-3] == ":":
        assert parse_instant(text[:-3] + text[-2:]) == milliseconds(moment)


@given(st.dates())
def test_a_date_is_its_midnight(day: datetime) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert parse_instant(midnight.date().isoformat()) == milliseconds(midnight)


@given(moments_from(1971))
def test_mail_dates_are_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert parse_instant(format_datetime(moment)) == milliseconds(moment)


@given(st.integers(-(10**15), 10**15))
def test_a_number_is_milliseconds(number: int) -> None:
    assert parse_instant(str(number)) == number
    assert parse_instant(f" {number}.75 ") == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1767225600000", 1767225600000),
        ("+5", 5),
        ("0", 0),
        ("2026", 2026),
        ("20261123", 20261123),
        ("2026-01-01T00:00:00.0019999Z", 1767225600001),
        ("2026-01-01T00:00:00.5Z", 1767225600500),
        ("2026-01-01T00:00:00,25Z", 1767225600250),
        ("2026-01-01T00:00:00.123456789Z", 1767225600123),
        ("2026-01-01 00:00:00 +01:00", 1767222000000),
        ("2026-01-01T00:00:00 01:00", 1767222000000),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_as_clients_write_them(text: str, expected: int) -> None:
    assert parse_instant(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "garbage",
        "1 hour ago",
        "2026-13-45",
        "2026-02-30",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:00:00+99:00",
        "20261123T000000Z",
        "2026-01-01T",
        "2026-01-01T00",
        "0x10",
        "1_000",
        "\u0661\u0662",
        "1e3",
        "nan",
        "inf",
        "9" * 19,
        "0000-01-01",
        "Mon, 45 Jan 2026 00:00:00 GMT",
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_instant(text) is None


@given(st.text() | st.text("0123456789TZ:-+. ,") | st.text("Mon, 1Jan20:GMT+-"))
def test_no_text_does_any_harm(text: str) -> None:
    found = parse_instant(text)
    assert found is None or type(found) is int
