"""Makes the requests of rules, only to public addresses unless the rule file allows others.

A host is resolved here, and the connection goes to the address that was checked, so a name that
resolves differently a moment later has no effect. Each host has its own pool of connections of
limited size; pools that have not been used for longest are closed first.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from eventstreams.propagation.actions import Request
from eventstreams.propagation.retry import Response
from eventstreams.propagation.rule_file import Targets

NETWORK_FAILURE = 504
"""The status of a request without an answer, as in change-propagation."""
BODY_BYTES_MAX = 64 * 1024
"""How much of an answer is read, for conditions and error events."""
POOLS_MAX = 256
_CONNECT_S = 10.0
_KEEPALIVE_S = 5.0
"""Shorter than the idle timeout of most servers, which otherwise may close a connection just as a
request arrives."""
_RESOLVED_S = 5.0
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_S)
_HEADERS_MAX = 50
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Address = tuple[str, int]
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class TargetRefused(Exception):
    """The request must not be made. A retry would not help."""


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class _Pool:
    """Connections to one origin, each with its own transport; the last one used comes first.

    A single transport with many connections would examine all of them for every request.
    """

    def __init__(self, connections_max: int, make: Callable[[], httpx.AsyncHTTPTransport]) -> None:
        self.users = 0
        self._make = make
        self._slots = asyncio.Semaphore(connections_max)
        self._free: list[httpx.AsyncHTTPTransport] = []

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[httpx.AsyncHTTPTransport]:
        """Provide a transport that no other request uses meanwhile."""
        self.users += 1
        try:
            async with self._slots:
                transport = self._free.pop() if self._free else self._make()
                try:
                    yield transport
                finally:
                    self._free.append(transport)
        finally:
            self.users -= 1

    async def aclose(self) -> None:
        """Close the connections, none of which may be in use."""
        while self._free:
            await self._free.pop().aclose()


class HttpClient:
    """Sends requests. Answers of any status, and failures of the network, are Responses."""

    def __init__(
        self, *, targets: Targets, resolve: Resolve | None = None, pools_max: int = POOLS_MAX
    ) -> None:
        """`resolve` maps a host and port to addresses; by default with the system's resolver."""
        self._targets = targets
        self._resolve = resolve or _system_resolve
        self._pools_max = pools_max
        self._pools: OrderedDict[_Origin, _Pool] = OrderedDict()
        self._resolved: OrderedDict[tuple[str, int], tuple[float, Sequence[Address]]] = (
            OrderedDict()
        )
        self._tls: ssl.SSLContext | None = None
        self._no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """A context without trusted authorities, for transports of http hosts."""

    @property
    def pools(self) -> int:
        """The number of hosts that have a pool of connections."""
        return len(self._pools)

    async def send(self, request: Request, *, decode: bool = False) -> Response:
        """Make the request and return the answer. Raises TargetRefused.

        With `decode`, JSON bodies become values.
        """
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._follow(request, decode=decode)
        except TimeoutError:
            return Response(NETWORK_FAILURE, body=f"no response within {request.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Response(NETWORK_FAILURE, body=f"{type(error).__name__}: {error}"[:500])

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def _follow(self, request: Request, *, decode: bool) -> Response:
        left = request.redirects_max
        while True:
            response = await self._once(request, decode=decode)
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or not location or not left:
                return response
            left -= 1
            request = redirected(request, response.status, location)

    async def _once(self, request: Request, *, decode: bool) -> Response:
        origin, parts = _origin_of(request.uri)
        addresses = await self._addresses(origin)
        async with self._connection(origin) as transport:
            for n, address in enumerate(addresses):
                try:
                    answer = await _try(request, origin, parts, address, transport)
                    return await _read(answer, decode=decode)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if n == len(addresses) - 1:
                        raise
        raise AssertionError("resolving returns at least one address")

    async def _addresses(self, origin: _Origin) -> Sequence[Address]:
        """Return the permitted addresses of a host. Raises TargetRefused, OSError."""
        now = asyncio.get_running_loop().time()
        key = (origin.host, origin.port)
        known = self._resolved.get(key)
        if known is None or known[0] < now:
            found = await self._resolve(origin.host, origin.port)
            self._resolved[key] = known = (now + _RESOLVED_S, tuple(found))
            while len(self._resolved) > self._pools_max:
                self._resolved.popitem(last=False)
        if self._targets.allow_private or origin.host in self._targets.allow_hosts:
            return known[1]
        for address, _ in known[1]:
            if not is_public(address):
                raise TargetRefused(
                    f"{origin.host} resolves to {address}, which is not a public address; "
                    "targets.allow_hosts or targets.allow_private would allow it"
                )
        return known[1]

    @asynccontextmanager
    async def _connection(self, origin: _Origin) -> AsyncGenerator[httpx.AsyncHTTPTransport]:
        if origin.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        pool = self._pools.get(origin)
        if pool is None:
            verify = self._tls if origin.scheme == "https" and self._tls else self._no_tls
            make = functools.partial(
                httpx.AsyncHTTPTransport, verify=verify, limits=_ONE, trust_env=False
            )
            pool = self._pools[origin] = _Pool(self._targets.connections_per_host, make)
        self._pools.move_to_end(origin)
        try:
            async with pool.connection() as transport:
                yield transport
        finally:
            await self._close_some()

    async def _close_some(self) -> None:
        if len(self._pools) <= self._pools_max:
            return
        idle = [origin for origin, pool in self._pools.items() if not pool.users]
        for origin in idle[: len(self._pools) - self._pools_max]:
            await self._pools.pop(origin).aclose()


def is_public(address: str) -> bool:
    """Return whether an address is public, including an IPv4 address embedded in IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        else:
            parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def _system_resolve(host: str, port: int) -> Sequence[Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(address[0]), int(address[1])) for *_, address in found))


def _origin_of(uri: str) -> tuple[_Origin, Any]:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TargetRefused(f"not a URL: {uri[:200]!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise TargetRefused(f"not an absolute http(s) URL: {uri[:200]!r}")
    return _Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80)), parts


def redirected(request: Request, status: int, location: str) -> Request:
    """Return the request that follows a redirect (RFC 9110, section 15.4).

    Credentials are kept only if scheme, host and port are the same.
    """
    uri = urljoin(request.uri, location)
    headers = dict(request.headers)
    headers.pop("host", None)
    method, body = request.method, request.body
    if status == 303 or (status in (301, 302) and method == "POST"):
        method, body = "GET", None
        headers.pop("content-type", None)
    if urlsplit(uri)[:2] != urlsplit(request.uri)[:2]:
        for secret in ("authorization", "cookie"):
            headers.pop(secret, None)
    return Request(method, uri, headers, body, request.timeout_s, request.redirects_max)


def _some(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name][:1000] for name in list(headers)[:_HEADERS_MAX]}


async def _try(
    request: Request,
    origin: _Origin,
    parts: Any,
    address: Address,
    transport: httpx.AsyncHTTPTransport,
) -> httpx.Response:
    host, port = address
    where = f"[{host}]" if ":" in host else host
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    headers = {"host": parts.netloc.rpartition("@")[2], "accept": "*/*", **request.headers}
    read_s = request.timeout_s
    made = httpx.Request(
        request.method,
        f"{origin.scheme}://{where}:{port}{path}",
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        content=request.body,
        extensions={
            "sni_hostname": origin.host,
            "timeout": {
                "connect": _CONNECT_S, "read": read_s, "write": read_s, "pool": read_s
            },
        },
    )  # fmt: skip
    return await transport.handle_async_request(made)


async def _read(answer: httpx.Response, *, decode: bool) -> Response:
    try:
        found = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, _some(found), await _body(answer, decode=decode))
    finally:
        await answer.aclose()


async def _body(answer: httpx.Response, *, decode: bool) -> Any:
    """Return the first bytes of the body as text, or the value of JSON."""
    data = b""
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > BODY_BYTES_MAX:
            return data[:BODY_BYTES_MAX].decode("utf-8", "replace")
    if decode and "json" in answer.headers.get("content-type", ""):
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    return data.decode("utf-8", "replace")
