"""Compressed bodies are decompressed exactly, in bounded steps."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import BadBody, BodyTooLarge
from eventstreams.web.bodies import unpack

_STEP_BYTES_MAX = 64 * 1024


@given(st.lists(st.binary(max_size=300) | st.just(b"x" * 200_000), min_size=1, max_size=8))
def test_gzip_members_are_decompressed_in_order(members: list[bytes]) -> None:
    packed = b"".join(map(gzip.compress, members))
    pieces = list(unpack(packed, "gzip", 10**7))
    assert b"".join(pieces) == b"".join(members)
    assert max(map(len, pieces)) <= _STEP_BYTES_MAX


@given(st.binary(max_size=300), st.integers(1, 20))
def test_a_truncated_body_is_an_error(content: bytes, missing: int) -> None:
    for pack, coding in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
        packed = pack(content)
        with pytest.raises(BadBody):
            list(unpack(packed[: max(1, len(packed) - missing)], coding, 10**7))


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    pieces: list[bytes] = []
    with pytest.raises(BodyTooLarge):
        pieces.extend(unpack(packed, "gzip", 1_000_000))
    assert sum(map(len, pieces)) <= 1_000_000


def test_the_limit_holds_over_all_members() -> None:
    packed = gzip.compress(b"x" * 600) * 2
    assert len(b"".join(unpack(packed, "gzip", 1200))) == 1200
    with pytest.raises(BodyTooLarge):
        list(unpack(packed, "gzip", 1199))


def test_many_empty_members_take_linear_time() -> None:
    """A quadratic algorithm would copy hundreds of gigabytes."""
    assert b"".join(unpack(gzip.compress(b"") * 200_000, "gzip", 10)) == b""


@pytest.mark.parametrize("rest", [b"x", b"\0x", b"\x1f", b"\x1f\x8b", b"\x1f\x8c"])
def test_bytes_after_the_last_member_are_an_error(rest: bytes) -> None:
    with pytest.raises(BadBody):
        list(unpack(gzip.compress(b"a") + rest, "gzip", 10))
