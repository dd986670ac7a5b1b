"""Which content coding a stream gets: what the client can decode, and what is known to go well.

Many libraries ask for gzip and are not good at streams of it (docs/clients.md), so by default only
browsers are taken at their word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eventstreams.errors import InvalidParameter
from eventstreams.fanout.compression import Encoding
from eventstreams.settings import Compression

CHOICES: Mapping[str, Encoding] = {
    "gzip": Encoding.GZIP,
    "zstd": Encoding.ZSTD,
    "none": Encoding.IDENTITY,
}
_NAMES = {"gzip": Encoding.GZIP, "x-gzip": Encoding.GZIP, "zstd": Encoding.ZSTD}
_ITEMS_MAX = 50
"""Of Accept-Encoding; those behind them are passed over."""
_ITEM = re.compile(r"\s*([^\s;,]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?", re.ASCII)


def choose(
    compression: Compression, accepted: str | None, asked: str | None, *, is_browser: bool
) -> Encoding:
    """`accepted` is Accept-Encoding, `asked` the parameter `compress`. Raises InvalidParameter.

    Who asks without saying what is accepted gets what was asked for, as RFC 9110 has it.
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
        best = max((Encoding.GZIP, Encoding.ZSTD), key=weights.__getitem__)  # gzip, if in doubt
        if weights[best] > 0:
            return best
    return Encoding.IDENTITY


def headers(encoding: Encoding) -> list[tuple[bytes, bytes]]:
    """What a stream's answer says of its coding."""
    vary = (b"vary", b"Accept, Accept-Encoding, Sec-Fetch-Site")
    if encoding is Encoding.IDENTITY:
        return [vary]
    return [(b"content-encoding", encoding.value.encode()), vary]


def _weights(accepted: str) -> dict[Encoding, float]:
    """RFC 9110, 12.5.3. What is not well-formed is passed over."""
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
