"""The public keys of those who issue tokens: from a file or a URL, kept, and looked up again.

A key that a token names and nobody knows may be new, so it is looked for, but not too often: what
tokens name is for anyone to invent. Keys that could not be had again stay good.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from eventstreams.access.errors import AccessUnavailable

_log = logging.getLogger(__name__)

_AGAIN_S = 10.0
_TIMEOUT_S = 5.0
_BYTES_MAX = 1 << 20
_RSA_BITS_MIN = 2048
_ALGORITHMS: dict[tuple[str, str | None], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("OKP", "Ed448"): "EdDSA",
}
"""By type and curve of the key, so that no token chooses how it is checked."""


class Key(NamedTuple):
    id: str | None
    algorithm: str
    key: Any


class KeySet:
    def __init__(
        self,
        *,
        file: Path | None,
        url: str | None,
        refresh_s: float,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """`file` or `url`; with neither there are no keys."""
        self._file = file
        self._url = url
        self._refresh_s = refresh_s
        self._client = client
        self._keys: list[Key] | None = None
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def find(self, key_id: str | None, algorithm: str) -> list[Key]:
        """Those that may have signed it. Raises AccessUnavailable."""
        if self._keys is None or self._is_older_than(self._refresh_s):
            await self._look()
        found = self._among(key_id, algorithm)
        if not found and self._is_older_than(_AGAIN_S):
            await self._look()
            found = self._among(key_id, algorithm)
        if self._keys is None:
            raise AccessUnavailable("The keys that tokens are checked with can't be had", 10)
        return found

    def _among(self, key_id: str | None, algorithm: str) -> list[Key]:
        return [
            key
            for key in self._keys or ()
            if key.algorithm == algorithm and (key_id is None or key.id in (None, key_id))
        ]

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._looked_at >= seconds

    async def _look(self) -> None:
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at > asked:
                return  # somebody else has
            if self._keys is None and not self._is_older_than(1.0):
                return
            try:
                self._keys = parse(await self._read())
            except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
                said = str(error) or f"no answer in {_TIMEOUT_S:g} s"
                _log.error("keys of tokens: %s: %s", type(error).__name__, said)
            self._looked_at = time.monotonic()

    async def _read(self) -> bytes:
        if self._file is not None:
            return await asyncio.to_thread(self._file.read_bytes)
        if self._url is None:
            return b'{"keys": []}'
        async with asyncio.timeout(_TIMEOUT_S):
            if self._client is None:
                self._client = httpx.AsyncClient(timeout=_TIMEOUT_S)
            async with self._client.stream("GET", self._url) as answer:
                answer.raise_for_status()
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _BYTES_MAX:
                        raise ValueError(f"more than {_BYTES_MAX} bytes of keys")
                return body

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def parse(text: bytes) -> list[Key]:
    """The keys of a JSON Web Key Set that can be used here. Raises ValueError."""
    try:
        document: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    entries: Any = cast("dict[str, Any]", document).get("keys") if _is_dict(document) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list `keys`")
    keys: list[Key] = []
    for number, entry in enumerate(cast("list[Any]", entries)):
        fields = cast("dict[str, Any]", entry) if _is_dict(entry) else {}
        kind, curve = fields.get("kty"), fields.get("crv")
        if (fields.get("use") or "sig") != "sig":
            continue
        algorithm = _ALGORITHMS.get((str(kind), None if curve is None else str(curve)))
        if algorithm is None:
            _log.info("keys[%d] is of a type that checks no token here, left out", number)
            continue
        if (fields.get("alg") or algorithm) != algorithm or fields.get("d") is not None:
            _log.warning("keys[%d] is not one to check %s with; left out", number, algorithm)
            continue
        try:
            key = PyJWK(fields, algorithm).key
        except (PyJWTError, ValueError, TypeError) as error:
            _log.warning("keys[%d] can't be read, left out: %s", number, type(error).__name__)
            continue
        if algorithm == "RS256" and key.key_size < _RSA_BITS_MIN:
            _log.warning("keys[%d] has fewer than %d bits, left out", number, _RSA_BITS_MIN)
            continue
        identifier = fields.get("kid")
        keys.append(Key(identifier if isinstance(identifier, str) else None, algorithm, key))
    return keys


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
