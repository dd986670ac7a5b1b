"""Times as clients write them, compared with datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.timestamp import parse_moment, parse_timestamp

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
    assert parse_timestamp(moment.isoformat(separator)) == milliseconds(moment)


@given(moments)
def test_a_plus_that_became_a_space_is_understood(moment: datetime) -> None:
    text = moment.isoformat()
    assert parse_timestamp(text.replace("+", " ")) == milliseconds(moment)


@given(moments, st.sampled_from(["hours", "minutes", "seconds", "milliseconds", "microseconds"]))
def test_times_of_any_precision_are_read(moment: datetime, timespec: str) -> None:
    text = moment.isoformat(timespec=timespec)
    if timespec == "hours":
        assert parse_timestamp(text) is None
    else:
        assert parse_timestamp(text) == milliseconds(datetime.fromisoformat(text))


@given(moments)
def test_without_a_zone_a_time_is_utc(moment: datetime) -> None:
    there = moment.replace(tzinfo=UTC)
    for text in (there.replace(tzinfo=None).isoformat(), there.isoformat()[:-6] + "Z"):
        assert parse_timestamp(text) == milliseconds(there)


@given(moments)
def test_a_zone_needs_no_colon(moment: datetime) -> None:
    text = moment.isoformat()
    if text[-3] == ":":
        assert parse_timestamp(text[:-3] + text[-2:]) == milliseconds(moment)


@given(st.dates())
def test_a_date_is_its_midnight(day: datetime) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert parse_timestamp(midnight.date().isoformat()) == milliseconds(midnight)


@given(moments_from(1971))
def test_mail_dates_are_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert parse_timestamp(format_datetime(moment)) == milliseconds(moment)


@given(st.integers(-(10**15), 10**15))
def test_a_number_is_milliseconds(number: int) -> None:
    assert parse_timestamp(str(number)) == number
    assert parse_timestamp(f" {number}.75 ") == number


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
        ("2023-11", 1698796800000),
        ("2023-11T10:00Z", 1698832800000),
        ("2023-11-14T24:00:00Z", 1700006400000),
        ("2023-11-14 24:00", 1700006400000),
        ("2023-11-14T00:00:00+00", 1699920000000),
        ("2023-11-14 22:13:20+01", 1699996400000),
        ("14 Nov 2023", 1699920000000),
        ("14 November 2023", 1699920000000),
        ("14-Nov-2023", 1699920000000),
        ("Tue, 14 Nov 2023", 1699920000000),
        ("Nov 14, 2023", 1699920000000),
        ("nov 14 2023", 1699920000000),
        ("Sept. 14, 2023", 1694649600000),
        ("November 14, 2023 10:13 PM", 1699999980000),
        ("Nov 14, 2023, 12:00:00 AM", 1699920000000),
        ("14 Nov 2023 22:13:20", 1700000000000),
        ("14 Nov 2023 22:13:20 UTC", 1700000000000),
        ("14 Nov 2023 22:13:20.5Z", 1700000000500),
        ("Tue Nov 14 2023 22:13:20 GMT+0000 (Coordinated Universal Time)", 1700000000000),
        ("Tue Nov 14 2023 23:13:20 GMT 0100 (Central European Time)", 1700000000000),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 1700000000000),
        ("Tue Nov 14 22:13:20 UTC 2023", 1700000000000),
        ("Tue Nov 14 22:13:20 2023", 1700000000000),
        ("2023/11/14", 1699920000000),
        ("2023-11-4", 1699056000000),
        ("2023-1-5 10:00", 1672912800000),
        ("11/14/2023", 1699920000000),
        ("11/14/2023 22:13:20", 1700000000000),
    ],
)
def test_times_as_clients_write_them(text: str, expected: int) -> None:
    assert parse_timestamp(text) == expected


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
        "2023-11-14T24:00:01Z",
        "2023-11-14T24:01",
        "2023-11-14T24:00:00.001Z",
        "2023-11-14T25:00",
        "2023-13",
        "2023-00",
        "2023-11-14T00:00:60Z",
        "2023-11-14T00:00:00+24",
        "14 Foo 2023",
        "14 Novfoo 2023",
        "foo 14 Nov 2023",
        "31 Feb 2023",
        "Nov 14",
        "14/11/2023",
        "2023/02/30",
        "Nov 14, 2023 13:00 PM",
        "14 Nov 2023 22:13:20 CET extra",
        "foo 1",
    ],
)
def test_text_that_is_no_time_is_none(text: str) -> None:
    assert parse_timestamp(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20231114221320", 1700000000000),  # a timestamp of MediaWiki
        ("20231114", 1699920000000),
        ("2023", 1672531200000),
        ("1700000000", 1700000000000),
        ("1700000000.5", 1700000000500),
        ("1700000000.123456", 1700000000123),
        ("999999999", 999999999000),
        ("1700000000000", 1700000000000),
        ("0", 0),
        ("-1", -1),
        ("5", 5),
        ("1969", 1969),
        ("12345678", 12345678),
        ("99999999999", 99999999999),
        ("20231314221320", None),
        ("20231114241320", None),
        ("17000000000000", None),
        ("1700000000000000", None),
        ("1700000000000000000", None),
        ("earliest", 0),
        ("-1m", 1699999940000),
    ],
)
def test_the_digits_of_a_number_in_a_url_decide_its_unit(text: str, expected: int | None) -> None:
    assert parse_moment(text, 1_700_000_000_000) == expected


@given(st.integers(10**11, 10**13 - 1))
def test_milliseconds_in_a_url_stay_milliseconds(number: int) -> None:
    assert parse_moment(str(number), 0) == number


@given(moments_from(1971))
def test_what_javascript_prints_is_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert parse_timestamp(
        moment.strftime("%a %b %d ")
        + f"{moment.year:04} "
        + moment.strftime("%H:%M:%S GMT%z (Somewhere)")
    ) == milliseconds(moment)


@given(st.text() | st.text("0123456789TZ:-+. ,") | st.text("Mon, 1Jan20:GMT+-"))
def test_any_text_is_a_time_or_none(text: str) -> None:
    found = parse_timestamp(text)
    assert found is None or type(found) is int
