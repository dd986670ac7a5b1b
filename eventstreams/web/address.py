"""Determines the client's address: that of the connection, or the one that a trusted proxy names.

X-Client-IP and X-Forwarded-For are ignored unless a trusted proxy sent them, because any client can
invent them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from eventstreams.web.headers import header_list

_LENGTH_MAX = 64
_HOPS_MAX = 50
"""How many proxies in a row are examined. Each may be compared with all trusted networks."""
_SITE_BITS = 64
"""The network bits of an IPv6 address. One subscriber has all addresses of such a network."""
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+):\d+", re.ASCII)
_NETWORK_BITS = {4: 24, 6: 48}


class Proxies:
    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted` are the addresses and networks of proxies."""
        self._trusted = [ip_network(text, strict=False) for text in trusted]

    def client(self, scope: Scope) -> str | None:
        """Return the client's address, or None if a trusted proxy does not name it.

        Behind a trusted proxy, this is the last address of X-Client-IP, otherwise the last one of
        X-Forwarded-For that is not a proxy's: a client may have invented earlier ones.
        """
        peer: tuple[str, int] | None = scope.get("client")
        if peer is not None and not self.trusts(peer[0]):
            return peer[0]
        given = (header_list(scope, b"x-client-ip") or "").rpartition(",")[2].strip()
        if given:
            return _alone(given[:_LENGTH_MAX])
        text = header_list(scope, b"x-forwarded-for") or ""
        nearest = None
        for hop in reversed(text.rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
            if given := hop.strip()[:_LENGTH_MAX]:
                nearest = _alone(given)
                if not self.trusts(nearest):
                    break
        return nearest

    def site(self, scope: Scope) -> str:
        """Return the site that a request is charged to.

        It is the client's, or the proxy's if the proxy does not name the client's address.
        """
        peer: tuple[str, int] | None = scope.get("client")
        address = self.client(scope) or (peer[0] if peer else "")
        return site_of(address)

    def trusts(self, text: str) -> bool:
        """Return whether this is the address of a trusted proxy."""
        address = _parsed(text)
        return address is not None and any(address in network for network in self._trusted)


def _alone(text: str) -> str:
    """Return the address without the port that some proxies append."""
    match = _WITH_PORT.fullmatch(text)
    return text if match is None else match[1] or match[2]


def site_of(address: str) -> str:
    """Return the site that limits count: an IPv4 address, or the network of an IPv6 address."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


def shortened(address: str) -> str:
    """Return the address's network for logs, wide enough that it identifies no person."""
    parsed = _parsed(address)
    if parsed is None:
        return "unreadable"
    bits = _NETWORK_BITS[parsed.version]
    return str(ip_network((parsed, bits), strict=False))


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
