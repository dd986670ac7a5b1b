"""Loads and caches the public keys of token issuers from a file or a URL.

If a token names an unknown key, the keys are loaded again, because the key may be new; but only
once in _AGAIN_S seconds, because anyone can invent names of keys. If loading fails, the keys loaded
before remain valid.
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

from eventstreams.errors import AccessUnavailable

_log = logging.getLogger(__name__)

_AGAIN_S = 10.0
"""The shortest time between two loads because of unknown keys."""
_TIMEOUT_S = 5.0
_BYTES_MAX = 256 * 1024
"""The largest key set: room for several hundred keys."""
_RSA_BITS_MIN = 2048
_ALGORITHMS: dict[tuple[str, str | None], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("OKP", "Ed448"): "EdDSA",
}
"""The algorithm by type and curve of the key, so that a token cannot choose how it is verified."""


class Key(NamedTuple):
    id: str | None
    algorithm: str
    key: Any


class KeySet:
    """The keys that verify tokens."""

    def __init__(
        self,
        *,
        file: Path | None,
        url: str | None,
        refresh_s: float,
        client: httpx.AsyncClient | None = None,
        again_s: float = _AGAIN_S,
    ) -> None:
        """Set the source of the keys: `file`, `url`, or neither for no keys.

        `again_s` is the shortest time between two loads because of unknown keys.
        """
        self._file = file
        self._url = url
        self._refresh_s = refresh_s
        self._client = client
        self._again_s = again_s
        self._keys: list[Key] | None = None
        self._loaded_at = float("-inf")
        self._loading = asyncio.Lock()

    async def find(self, key_id: str | None, algorithm: str) -> list[Key]:
        """Return the keys that may have signed a token with this header.

        Raises AccessUnavailable if no keys have been loaded yet.
        """
        if self._keys is None or self._is_older_than(self._refresh_s):
            await self._load()
        found = self._among(key_id, algorithm)
        if not found and self._is_older_than(self._again_s):
            await self._load()
            found = self._among(key_id, algorithm)
        if self._keys is None:
            raise AccessUnavailable("The keys that verify tokens cannot be loaded", 10)
        return found

    def _among(self, key_id: str | None, algorithm: str) -> list[Key]:
        return [
            key
            for key in self._keys or ()
            if key.algorithm == algorithm and (key_id is None or key.id in (None, key_id))
        ]

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._loaded_at >= seconds

    async def _load(self) -> None:
        asked = time.monotonic()
        async with self._loading:
            if self._loaded_at > asked:
                return  # another call has loaded them meanwhile
            if self._keys is None and not self._is_older_than(1.0):
                return
            try:
                self._keys = await asyncio.to_thread(parse, await self._read())
            except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
                detail = str(error) or f"no answer in {_TIMEOUT_S:g} s"
                _log.error("cannot load the keys for tokens: %s: %s", type(error).__name__, detail)
            self._loaded_at = time.monotonic()

    async def _read(self) -> bytes:
        if self._file is not None:
            return await asyncio.to_thread(_read_file, self._file)
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
                    _check_size(len(body))
                return body

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(_BYTES_MAX + 1)
    _check_size(len(text))
    return text


def _check_size(size_bytes: int) -> None:
    if size_bytes > _BYTES_MAX:
        raise ValueError(f"the key set has more than {_BYTES_MAX} bytes, which is the limit")


def parse(text: bytes) -> list[Key]:
    """Return the supported keys of a JSON Web Key Set. Raises ValueError."""
    _check_size(len(text))
    try:
        document: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    entries: Any = cast("dict[str, Any]", document).get("keys") if _is_dict(document) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list named `keys`")
    keys: list[Key] = []
    for number, entry in enumerate(cast("list[Any]", entries)):
        fields = cast("dict[str, Any]", entry) if _is_dict(entry) else {}
        kind, curve = fields.get("kty"), fields.get("crv")
        if (fields.get("use") or "sig") != "sig":
            continue
        algorithm = _ALGORITHMS.get((str(kind), None if curve is None else str(curve)))
        if algorithm is None:
            _log.info("keys[%d] has a type that is not supported, ignoring it", number)
            continue
        if (fields.get("alg") or algorithm) != algorithm or fields.get("d") is not None:
            _log.warning("keys[%d] is not a key for verifying %s, ignoring it", number, algorithm)
            continue
        try:
            key = PyJWK(fields, algorithm).key
        except (PyJWTError, ValueError, TypeError) as error:
            _log.warning("keys[%d] cannot be read, ignoring it: %s", number, type(error).__name__)
            continue
        if algorithm == "RS256" and key.key_size < _RSA_BITS_MIN:
            _log.warning("keys[%d] has fewer than %d bits, ignoring it", number, _RSA_BITS_MIN)
            continue
        identifier = fields.get("kid")
        keys.append(Key(identifier if isinstance(identifier, str) else None, algorithm, key))
    return keys


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
