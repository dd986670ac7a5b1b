"""Chooses the content coding of a stream from what the client accepts and what works in practice.

Many libraries accept gzip but handle gzip streams badly (docs/clients.md). By default, only
browsers therefore get a compressed stream without asking for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eventstreams.config.settings import Compression
from eventstreams.errors import InvalidParameter
from eventstreams.fanout.compression import Encoding

CHOICES: Mapping[str, Encoding] = {
    "gzip": Encoding.GZIP,
    "zstd": Encoding.ZSTD,
    "none": Encoding.IDENTITY,
}
_NAMES = {"gzip": Encoding.GZIP, "x-gzip": Encoding.GZIP, "zstd": Encoding.ZSTD}
_ITEMS_MAX = 50
"""The number of items of Accept-Encoding that are read. Further ones are ignored."""
_ITEM = re.compile(r"\s*([^\s;,]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?", re.ASCII)


def choose(
    compression: Compression, accepted: str | None, asked: str | None, *, is_browser: bool
) -> Encoding:
    """Return the coding for a stream. Raises InvalidParameter.

    `accepted` is Accept-Encoding, `asked` the parameter `compress`. Without Accept-Encoding, any
    coding is acceptable (RFC 9110, 12.5.3), so the client gets the one that it asked for.
    """
    wish = None if asked is None else CHOICES.get(asked)
    if asked is not None and wish is None:
        raise InvalidParameter(f"compress={asked} is not one of: {', '.join(CHOICES)}")
    if compression == "never" or wish is Encoding.IDENTITY:
        return Encoding.IDENTITY
    if accepted is None:
        return wish or Encoding.IDENTITY
    weights = _weights(accepted)
    if wish is not None:
        return wish if weights[wish] > 0 else Encoding.IDENTITY
    if compression == "always" or (compression == "browsers" and is_browser):
        best = max(
            (Encoding.GZIP, Encoding.ZSTD), key=weights.__getitem__
        )  # gzip if both weigh the same
        if weights[best] > 0:
            return best
    return Encoding.IDENTITY


def headers(encoding: Encoding) -> list[tuple[bytes, bytes]]:
    """Return the response headers of a stream for its coding."""
    vary = (b"vary", b"Accept, Accept-Encoding, Sec-Fetch-Site")
    if encoding is Encoding.IDENTITY:
        return [vary]
    return [(b"content-encoding", encoding.value.encode()), vary]


def _weights(accepted: str) -> dict[Encoding, float]:
    """Return the weight of each coding (RFC 9110, 12.5.3). Malformed items are ignored."""
    given: dict[Encoding, float] = {}
    others = 0.0
    for item in accepted.split(",", _ITEMS_MAX)[:_ITEMS_MAX]:
        match = _ITEM.fullmatch(item)
        if match is None:
            continue
        weight = 1.0 if match[2] is None else min(1.0, float(match[2]))
        name = match[1].lower()
        if name == "*":
            others = weight
        elif name in _NAMES:
            given[_NAMES[name]] = max(weight, given.get(_NAMES[name], 0.0))
    return {encoding: given.get(encoding, others) for encoding in Encoding}
