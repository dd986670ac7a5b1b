"""Requests go only to permitted addresses, and each ends with a response."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.propagation.actions import Request
from eventstreams.propagation.http import (
    BODY_BYTES_MAX,
    NETWORK_FAILURE,
    Address,
    HttpClient,
    TargetRefused,
    is_public,
    redirected,
)
from eventstreams.propagation.rule_file import Targets
from tests.propagation.stage import Target

pytestmark = pytest.mark.anyio


def request(uri: str = "http://target.test/a?b=c", **more: object) -> Request:
    fields = {"method": "GET", "headers": {}, "body": None, "timeout_s": 30.0, "redirects_max": 0}
    return Request(uri=uri, **{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.1",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "not one",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        ("/other", True),
        ("https://target.test/b", True),
        ("http://target.test/b", False),
        ("https://target.test:444/b", False),
        ("https://other.test/b", False),
        ("//other.test/b", False),
    ],
)
def test_credentials_follow_a_redirect_only_to_the_same_origin(location: str, kept: bool) -> None:
    secrets = {"authorization": "Bearer t", "cookie": "a=b"}
    following = redirected(request("https://target.test/a", headers=secrets), 307, location)
    assert (following.headers == secrets) is kept
    assert kept or not following.headers


@pytest.mark.parametrize("address", ["8.8.8.8", "2620:0:861:ed1a::1", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@given(st.text(max_size=40))
def test_an_invalid_address_is_not_public(text: str) -> None:
    assert is_public(text) in (True, False)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://0x7f.1/",
        "http://2130706433/", "http://127.1/", "http://user@127.0.0.1/", "http://[::ffff:7f00:1]/",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_private_address_is_connected_to(uri: str) -> None:
    client = HttpClient(targets=Targets())
    with pytest.raises(TargetRefused, match="not a public address"):
        await client.send(request(uri))
    await client.aclose()


async def test_a_name_is_refused_where_any_of_its_addresses_is_private() -> None:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [("8.8.8.8", port), ("10.0.0.1", port)]

    client = HttpClient(targets=Targets(), resolve=resolve)
    with pytest.raises(TargetRefused, match=r"10\.0\.0\.1"):
        await client.send(request())
    await client.aclose()


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A second answer of the resolver has no effect."""
    asked: list[str] = []
    async with Target().running() as target:

        async def resolve(host: str, port: int) -> Sequence[Address]:
            asked.append(host)
            return [("127.0.0.1", target.port)] if len(asked) == 1 else [("192.0.2.1", 9)]

        client = HttpClient(
            targets=Targets(allow_hosts=frozenset({"target.test"})), resolve=resolve
        )
        response = await client.send(request())
        assert response.status == 200
        assert asked == ["target.test"]
        [call] = target.calls
        assert (call.path, call.headers["host"]) == ("/a?b=c", "target.test")
        await client.aclose()


async def test_redirects_are_followed_only_where_asked_and_checked_again() -> None:
    async with Target().running() as target:

        async def resolve(host: str, port: int) -> Sequence[Address]:
            return [("127.0.0.1", target.port)]

        client = HttpClient(
            targets=Targets(allow_hosts=frozenset({"target.test"})), resolve=resolve
        )
        target.answer = lambda call: (
            (302, {"location": "/two"}, b"") if call.path == "/one" else 200
        )
        one = "http://target.test/one"
        assert (await client.send(request(one))).status == 302
        body = {"method": "POST", "body": b"x", "redirects_max": 1}
        assert (await client.send(request(one, **body))).status == 200
        assert [(call.method, call.path) for call in target.calls[1:]] == [
            ("POST", "/one"), ("GET", "/two")
        ]  # fmt: skip
        target.answer = lambda _: (302, {"location": "http://private.test/"}, b"")
        with pytest.raises(TargetRefused):
            await client.send(request(one, redirects_max=5))
        target.answer = lambda _: (302, {"location": "/one"}, b"")
        target.calls.clear()
        assert (await client.send(request(one, redirects_max=3))).status == 302
        assert len(target.calls) == 4
        await client.aclose()


async def test_a_refused_connection_is_a_network_failure() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    client = HttpClient(targets=Targets(allow_private=True))
    response = await client.send(request(f"http://127.0.0.1:{port}/"))
    assert response.status == NETWORK_FAILURE
    assert "ConnectError" in response.body
    await client.aclose()


async def test_another_address_is_tried_if_one_refuses() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    async with Target().running() as target:

        async def resolve(host: str, port: int) -> Sequence[Address]:
            return [("127.0.0.1", free), ("127.0.0.1", target.port)]

        client = HttpClient(targets=Targets(allow_private=True), resolve=resolve)
        assert (await client.send(request())).status == 200
        await client.aclose()


async def test_a_silent_target_times_out() -> None:
    async with Target().running() as target:
        target.hold()
        client = HttpClient(targets=Targets(allow_private=True), resolve=target.resolve)
        response = await client.send(request(timeout_s=0.2))
        assert response.status == NETWORK_FAILURE
        assert "0.2 s" in response.body
        await client.aclose()


async def test_long_responses_are_truncated_and_json_is_decoded_if_asked() -> None:
    async with Target().running() as target:
        client = HttpClient(targets=Targets(allow_private=True), resolve=target.resolve)
        target.answer = lambda _: (200, {}, b"x" * (BODY_BYTES_MAX * 3))
        assert len((await client.send(request())).body) == BODY_BYTES_MAX
        target.answer = lambda _: (500, {"content-type": "application/json"}, b'{"a": 1}')
        assert (await client.send(request(), decode=True)).body == {"a": 1}
        assert (await client.send(request())).body == '{"a": 1}'
        target.answer = lambda _: (500, {"content-type": "application/json"}, b"{")
        assert (await client.send(request(), decode=True)).body == "{"
        await client.aclose()


async def test_connections_to_one_host_are_bounded() -> None:
    async with Target().running() as target:
        client = HttpClient(
            targets=Targets(allow_private=True, connections_per_host=3), resolve=target.resolve
        )
        target.hold()
        sending = [asyncio.ensure_future(client.send(request())) for _ in range(10)]
        await target.received(3)
        target.release()
        await asyncio.gather(*sending)
        assert target.most_open <= 3
        await client.aclose()


async def test_the_least_recently_used_pools_are_closed() -> None:
    async with Target().running() as target:
        client = HttpClient(
            targets=Targets(allow_private=True), resolve=target.resolve, pools_max=4
        )
        for n in range(20):
            assert (await client.send(request(f"http://h{n}.test/"))).status == 200
        assert client.pools == 4
        await client.aclose()


async def test_pools_of_hosts_that_refuse_connections_are_closed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        client = HttpClient(targets=Targets(allow_private=True), pools_max=4)
        for n in range(1, 20):
            answer = await client.send(request(f"http://127.0.0.{n}:{port}/"))
            assert answer.status == NETWORK_FAILURE
        assert client.pools == 4
        await client.aclose()
