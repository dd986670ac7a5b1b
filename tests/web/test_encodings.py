"""The content coding of a stream is always one that the client accepts."""

from __future__ import annotations

import gzip
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.config.settings import Compression, HttpSettings
from eventstreams.errors import InvalidParameter
from eventstreams.fanout.compression import Encoding
from eventstreams.web.coding import choose
from eventstreams.web.headers import header_list
from tests.support.gateway import Site, filled

POLICIES: tuple[Compression, ...] = get_args(Compression)
NONE, GZIP, ZSTD = Encoding.IDENTITY, Encoding.GZIP, Encoding.ZSTD


@pytest.mark.parametrize(
    ("accepted", "asked", "is_browser", "chosen"),
    [
        (None, None, False, (NONE, NONE, NONE, NONE)),
        (None, None, True, (NONE, NONE, NONE, NONE)),
        (None, "gzip", False, (GZIP, GZIP, GZIP, NONE)),
        (None, "none", True, (NONE, NONE, NONE, NONE)),
        ("gzip", None, False, (GZIP, NONE, NONE, NONE)),
        ("gzip, deflate", None, True, (GZIP, GZIP, NONE, NONE)),
        ("gzip, deflate, br, zstd", None, True, (GZIP, GZIP, NONE, NONE)),
        ("gzip, deflate, br, zstd", "zstd", False, (ZSTD, ZSTD, ZSTD, NONE)),
        ("gzip, deflate", "zstd", True, (NONE, NONE, NONE, NONE)),
        ("gzip", "none", True, (NONE, NONE, NONE, NONE)),
        ("zstd;q=1, gzip;q=0.5", None, True, (ZSTD, ZSTD, NONE, NONE)),
        ("ZSTD ; Q=0.3", None, True, (ZSTD, ZSTD, NONE, NONE)),
        ("gzip;q=0", None, True, (NONE, NONE, NONE, NONE)),
        ("gzip;q=0", "gzip", True, (NONE, NONE, NONE, NONE)),
        ("*", None, True, (GZIP, GZIP, NONE, NONE)),
        ("gzip;q=0, *;q=0.1", None, True, (ZSTD, ZSTD, NONE, NONE)),
        ("x-gzip", None, True, (GZIP, GZIP, NONE, NONE)),
        ("identity", "gzip", True, (NONE, NONE, NONE, NONE)),
        ("", "gzip", True, (NONE, NONE, NONE, NONE)),
        ("gzip;level=9;q=1,,;, zstd", None, True, (ZSTD, ZSTD, NONE, NONE)),
    ],
)
def test_the_coding_is_the_best_of_what_is_accepted_and_allowed(
    accepted: str | None, asked: str | None, is_browser: bool, chosen: tuple[Encoding, ...]
) -> None:
    found = [choose(p, accepted, asked, is_browser=is_browser) for p in POLICIES]
    assert tuple(found) == chosen


@given(
    st.sampled_from(POLICIES),
    st.text(st.sampled_from("gzipstd*;q=01.,- "), max_size=30),
    st.sampled_from([None, "gzip", "zstd", "none"]),
    st.booleans(),
)
def test_only_acceptable_codings_are_sent(
    policy: Compression, accepted: str, asked: str | None, is_browser: bool
) -> None:
    chosen = choose(policy, accepted, asked, is_browser=is_browser)
    named = chosen.value in accepted.lower() or "*" in accepted
    assert chosen is NONE or named


@pytest.mark.parametrize("asked", ["br", "GZIP", "1"])
def test_unknown_codings_are_refused(asked: str) -> None:
    with pytest.raises(InvalidParameter, match="is not one of: gzip, zstd, none"):
        choose("always", None, asked, is_browser=False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "query", "coding"),
    [
        ({"Accept-Encoding": "gzip", "Sec-Fetch-Site": "cross-site"}, {}, "gzip"),
        ({"Accept-Encoding": "gzip", "Sec-Fetch-Mode": "cors"}, {}, None),
        ({"Accept-Encoding": "gzip, zstd"}, {"compress": "zstd"}, "zstd"),
        ({"Accept": "application/json"}, {"compress": "gzip"}, "gzip"),
        ({}, {}, None),
    ],
)
async def test_responses_name_their_coding_and_vary(
    embedded: Site, headers: dict[str, str], query: dict[str, Any], coding: str | None
) -> None:
    topic = await filled(embedded)
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", headers, since="0", limit="2", **query) as stream,
    ):
        assert stream.head.get("content-encoding") == coding
        assert stream.head.get("vary") == "Accept, Accept-Encoding, Sec-Fetch-Site"
        body = b"".join(await stream.rest())
        if coding == "gzip":
            assert gzip.decompress(body).count(b'"offset"') >= 2


@pytest.mark.anyio
async def test_settings_can_disable_compression(embedded: Site) -> None:
    topic = await filled(embedded)
    browser = {"Accept-Encoding": "gzip", "Sec-Fetch-Site": "same-origin"}
    http = HttpSettings(compression="never")
    async with (
        embedded.gateway({"s": [topic]}, http=http) as gateway,
        gateway.stream("s", browser, compress="gzip") as stream,
    ):
        assert stream.head.get("content-encoding") is None
    async with embedded.gateway({"s": [topic]}) as gateway:
        refused = await gateway.get("/v2/stream/s?compress=br", browser)
        assert refused.status == 400
        assert "compress=br is not one of: gzip, zstd, none" in refused.body.decode()
        explained = await gateway.get("/v2/explain?streams=s", browser)
        assert explained.json()["encoding"] == "gzip"
        head = await gateway.ask("HEAD", "/v2/stream/s", browser)
        assert head.head.get("content-encoding") == "gzip"


def test_several_lines_of_a_list_are_one() -> None:
    scope = {"headers": [(b"accept-encoding", b"br"), (b"accept-encoding", b"gzip;q=0.5")]}
    assert header_list(scope, b"accept-encoding") == "br, gzip;q=0.5"
    assert header_list(scope, b"accept") is None


@pytest.mark.parametrize(
    "accepted", ["gzip, x-gzip;q=0", "x-gzip;q=0, gzip", "gzip;q=0.5, gzip;q=1"]
)
def test_a_repeated_coding_has_its_higher_weight(accepted: str) -> None:
    assert choose("always", accepted, "gzip", is_browser=False) is GZIP
    assert choose("always", f"zstd;q=0.9, {accepted}", None, is_browser=False) is GZIP
