"""A stable share of the events: chosen by what identifies an event, so everyone gets the same."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, cast

from eventstreams.errors import InvalidSample
from eventstreams.fanout.document import Document

_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20}")
_HASH_BYTES = 8
_HASHES = float(2 ** (8 * _HASH_BYTES))


def parse_sample(text: str) -> float:
    """Above 0, 1 at most. Raises InvalidSample."""
    text = text.strip()
    share = float(text) if _DECIMAL.fullmatch(text) else 0.0
    if not 0 < share <= 1:
        shown = ascii(text[:40])
        raise InvalidSample(f"sample={shown} is not a decimal number above 0 and at most 1")
    return share


def is_sampled(document: Document, share: float) -> bool:
    """Whoever is kept at a share is kept at every larger one."""
    digest = blake2b(_identity(document), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest) < share * _HASHES


def _identity(document: Document) -> bytes:
    """`meta.id`; where there is no such text, the place in the log."""
    meta: Any = document.fields.get("meta") if document.fields is not None else None
    identity: Any = cast("dict[str, Any]", meta).get("id") if isinstance(meta, dict) else None
    if isinstance(identity, str):
        return identity.encode("utf-8", "surrogatepass")
    topic, partition, offset, _ = document.origin
    return f"{topic}/{partition}/{offset}".encode()
