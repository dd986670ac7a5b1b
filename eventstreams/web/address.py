"""Whose request it is: the connection's own address, or what a trusted proxy in front says.

What others write into X-Client-IP or X-Forwarded-For is theirs to invent, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from eventstreams.web.request import header_list

_LENGTH_MAX = 64
_HOPS_MAX = 50
"""Proxies in a row. Each may cost a look into all the networks that are trusted."""
_SITE_BITS = 64
"""Of an IPv6 address: what one subscriber has is a network, and any address in it."""
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+):\d+", re.ASCII)
_NETWORK_BITS = {4: 24, 6: 48}


class Proxies:
    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted`: addresses and networks."""
        self._trusted = [ip_network(text, strict=False) for text in trusted]

    def client(self, scope: Scope) -> str | None:
        """None where a trusted proxy does not say.

        The last address of X-Client-IP, else the last one of X-Forwarded-For that is not a
        proxy's: a client may have invented what precedes it.
        """
        peer: tuple[str, int] | None = scope.get("client")
        if peer is not None and not self._trusts(peer[0]):
            return peer[0]
        said = (header_list(scope, b"x-client-ip") or "").rpartition(",")[2].strip()
        if said:
            return _alone(said[:_LENGTH_MAX])
        text = header_list(scope, b"x-forwarded-for") or ""
        nearest = None
        for hop in reversed(text.rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
            if said := hop.strip()[:_LENGTH_MAX]:
                nearest = _alone(said)
                if not self._trusts(nearest):
                    break
        return nearest

    def site(self, scope: Scope) -> str:
        """Whom the work for a request is charged to: the client's site, or the proxy's where that
        does not name the client."""
        peer: tuple[str, int] | None = scope.get("client")
        address = self.client(scope) or (peer[0] if peer else "")
        return site_of(address)

    def _trusts(self, text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(address in network for network in self._trusted)


def _alone(text: str) -> str:
    """Without the port that some proxies write behind it, which is another with each connection."""
    match = _WITH_PORT.fullmatch(text)
    return text if match is None else match[1] or match[2]


def site_of(address: str) -> str:
    """What limits count by: an IPv4 address, or the network of an IPv6 address."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


def shortened(address: str) -> str:
    """For what is kept: the network, wide enough that nobody in it can be told."""
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
