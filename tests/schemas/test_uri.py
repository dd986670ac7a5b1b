"""Schema URIs name only schemas of a repository."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import BadSchemaUri
from eventstreams.schemas.uri import SchemaUri, Version, parse_uri, parse_version

numbers = st.integers(0, 999_999_999)
versions = st.builds(Version, numbers, numbers, numbers)
segments = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)
titles = st.lists(segments, min_size=1, max_size=4).map("/".join)


@given(st.builds(SchemaUri, titles, versions))
def test_uris_are_parsed_back(uri: SchemaUri) -> None:
    assert parse_uri(str(uri)) == uri


@given(st.lists(versions, min_size=2))
def test_versions_are_ordered_numerically(found: list[Version]) -> None:
    as_numbers = sorted([int(part) for part in str(v).split(".")] for v in found)
    assert [list(v) for v in sorted(found)] == as_numbers


@given(st.text(max_size=20) | st.text("/.ab1:\\%", max_size=20))
def test_accepted_uris_stay_below_their_base(text: str) -> None:
    try:
        uri = parse_uri(text)
    except BadSchemaUri:
        return
    assert ".." not in PurePosixPath(text).parts
    assert str(uri) == text
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://schema.example.org/error/1.0.0", "is absolute"),
        ("file:///etc/passwd", "is absolute"),
        ("//schema.example.org/error/1.0.0", "is absolute"),
        ("error/1.0.0", "does not begin with /"),
        ("", "does not begin with /"),
        ("/../../package/1.0.0", "leaves the repository"),
        ("/error/..", "leaves the repository"),
        ("/error/latest", "does not end in a full version"),
        ("/error/current", "does not end in a full version"),
        ("/error/1.0", "does not end in a full version"),
        ("/error/01.0.0", "does not end in a full version"),
        ("/error/1.0.0\n", "does not end in a full version"),
        ("/error/1.0.\u0660", "does not end in a full version"),
        ("/1.0.0", "has a title that"),
        ("/a//1.0.0", "has a title that"),
        ("/./1.0.0", "has a title that"),
        ("/.git/1.0.0", "has a title that"),
        ("/a\\b/1.0.0", "has a title that"),
        ("/a%2f/1.0.0", "has a title that"),
        ("/a\0/1.0.0", "has a title that"),
        ("/" + "a" * 600 + "/1.0.0", "is longer than 512"),
    ],
)
def test_uris_that_could_lead_elsewhere_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadSchemaUri, match=reason):
        parse_uri(text)


def test_versions_have_three_numbers() -> None:
    assert parse_version("1.20.3") == (1, 20, 3)
    for text in ("1", "1.2", "1.2.3.4", "v1.2.3", "1.2.3-rc", "1.2.x", "-1.2.3", "1.2.3 "):
        assert parse_version(text) is None, text
