"""Selects a stable share of the events by their ids, so that all clients get the same ones."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, cast

from eventstreams.errors import InvalidSample
from eventstreams.filters.document import Document

_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20}")
_HASH_BYTES = 8
_HASHES = float(2 ** (8 * _HASH_BYTES))


def parse_sample(text: str) -> float:
    """Return the share, above 0 and at most 1. Raises InvalidSample."""
    text = text.strip()
    share = float(text) if _DECIMAL.fullmatch(text) else 0.0
    if not 0 < share <= 1:
        shown = ascii(text[:40])
        raise InvalidSample(f"sample={shown} is not a decimal number above 0 and at most 1")
    return share


def sample_hash(document: Document) -> int:
    """Return the hash that decides in which samples the event is. It is computed once."""
    if document.sample_hash is None:
        digest = blake2b(_identity(document), digest_size=_HASH_BYTES).digest()
        document.sample_hash = int.from_bytes(digest)
    return document.sample_hash


def hashes_below(share: float) -> float:
    """Return the number that is above the hashes of all events in a sample of this share."""
    return share * _HASHES


def is_sampled(document: Document, share: float) -> bool:
    """Return whether the event is in the sample. A larger share includes every smaller one."""
    return sample_hash(document) < hashes_below(share)


def _identity(document: Document) -> bytes:
    """Return `meta.id`, or the place in the log if that is not a string."""
    meta: Any = document.fields.get("meta") if document.fields is not None else None
    identity: Any = cast("dict[str, Any]", meta).get("id") if isinstance(meta, dict) else None
    if isinstance(identity, str):
        return identity.encode("utf-8", "surrogatepass")
    topic, partition, offset, _ = document.origin
    return f"{topic}/{partition}/{offset}".encode()
