"""The client's address is that of the connection, or the one that a trusted proxy gives."""

from __future__ import annotations

from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.config.settings import HttpSettings, LimitSettings
from eventstreams.web.address import Proxies, site_of
from tests.support.gateway import Site
from tests.support.strategies import texts

LOOPBACK = HttpSettings().trusted_proxies


def scope(peer: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    raw = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in headers]
    return {"client": None if peer is None else (peer, 1234), "headers": raw}


CLIENT, FORWARDED = "x-client-ip", "x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", [(CLIENT, "192.0.2.1"), (FORWARDED, "192.0.2.2")], "203.0.113.9"),
        ("127.0.0.1", [(CLIENT, "192.0.2.1"), (FORWARDED, "192.0.2.2")], "192.0.2.1"),
        ("127.0.0.1", [(CLIENT, "192.0.2.1"), (CLIENT, "192.0.2.2")], "192.0.2.2"),
        ("127.0.0.1", [(CLIENT, "192.0.2.1, 192.0.2.2")], "192.0.2.2"),
        ("127.0.0.1", [(CLIENT, "  "), (FORWARDED, "192.0.2.2")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "10.9.9.9, 192.0.2.2")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2, 127.0.0.5")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2"), (FORWARDED, "192.0.2.3")], "192.0.2.3"),
        ("127.0.0.1", [(FORWARDED, "127.0.0.2, ::1")], "127.0.0.2"),
        ("127.0.0.1", [(FORWARDED, "unknown")], "unknown"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2:51234")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2:51234, 127.0.0.5:80")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "[2001:db8::1]:51234")], "2001:db8::1"),
        ("127.0.0.1", [(FORWARDED, "[2001:db8::1]")], "2001:db8::1"),
        ("127.0.0.1", [(CLIENT, "192.0.2.2:51234")], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2" + ", 127.0.0.2" * 49)], "192.0.2.2"),
        ("127.0.0.1", [(FORWARDED, "192.0.2.2" + ", 127.0.0.2" * 50)], "127.0.0.2"),
        ("127.0.0.1", [(FORWARDED, " , ")], None),
        ("127.0.0.1", [], None),
        ("::1", [(CLIENT, "2001:db8::1")], "2001:db8::1"),
        ("::ffff:127.0.0.1", [(CLIENT, "192.0.2.1")], "192.0.2.1"),
        (None, [(CLIENT, "192.0.2.1")], "192.0.2.1"),
        (None, [], None),
    ],
)
def test_only_trusted_proxies_determine_the_address(
    peer: str | None, headers: list[tuple[str, str]], address: str | None
) -> None:
    assert Proxies(LOOPBACK).client(scope(peer, *headers)) == address


def test_no_proxy_is_trusted_by_default() -> None:
    headers = ((CLIENT, "192.0.2.1"), (FORWARDED, "192.0.2.2"))
    assert Proxies([]).client(scope("127.0.0.1", *headers)) == "127.0.0.1"


def test_trusted_proxies_are_addresses_or_networks() -> None:
    proxies = Proxies(["198.51.100.7", "2001:db8:1::/48", "10.1.2.3/8"])
    for peer, trusted in (
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("2001:db8:1:2::3", True),
        ("2001:db8:2::", False),
        ("10.200.0.1", True),
    ):
        found = proxies.client(scope(peer, (CLIENT, "192.0.2.1")))
        assert found == ("192.0.2.1" if trusted else peer)


@given(st.text(max_size=100) | texts, st.text(max_size=100) | texts)
@example("x" * 10_000, ",")
def test_any_address_from_a_proxy_is_short(client: str, forwarded: str) -> None:
    found = Proxies(LOOPBACK).client(scope("127.0.0.1", (CLIENT, client), (FORWARDED, forwarded)))
    assert found is None or 0 < len(found) <= 64
    if found is not None:
        assert site_of(found)


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_addresses_of_one_ipv6_network_count_together(address: IPv6Address, host: int) -> None:
    base = int(address) >> 64 << 64
    one, other = IPv6Address(base + host), IPv6Address(base)
    if not (one.ipv4_mapped or other.ipv4_mapped):
        assert site_of(str(one)) == site_of(str(other))
    beside = IPv6Address((base + 2**64) % 2**128)
    if not beside.ipv4_mapped and not other.ipv4_mapped:
        assert site_of(str(other)) != site_of(str(beside))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_counts_for_itself_however_it_is_written(address: Any) -> None:
    assert site_of(str(address)) == site_of(f"::ffff:{address}") == str(address)


@pytest.mark.anyio
async def test_direct_clients_are_limited_by_their_own_address(embedded: Site) -> None:
    limits = LimitSettings(client_ip_connections=2)
    http = HttpSettings(trusted_proxies=())
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, limits=limits, http=http) as gateway,
        AsyncExitStack() as stack,
    ):
        for n in range(2):
            invented = {"X-Client-IP": f"192.0.2.{n}"}
            await stack.enter_async_context(gateway.stream("s", invented))
        refused = await gateway.get("/v2/stream/s", {"X-Client-IP": "192.0.2.9"})
        assert refused.status == 429
