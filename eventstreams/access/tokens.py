"""Verifies JSON Web Tokens: RS256, ES256 and EdDSA by public keys, HS256 by a shared secret."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jwt
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from eventstreams.access.key_sets import Key, KeySet
from eventstreams.errors import InvalidToken


class Identity(NamedTuple):
    subject: str | None
    scopes: frozenset[str]
    expires_at: float
    """Unix time in seconds, leeway included. Streams of this identity end then."""


_BYTES_MAX = 8192
_PUBLIC = ("RS256", "ES256", "EdDSA")
_FAR_S = 2.0**40
"""The expiry, as a Unix time in seconds, of tokens that do not expire in practice."""


class Tokens:
    """Verifies tokens."""

    def __init__(
        self,
        *,
        keys: KeySet,
        secret: bytes | None,
        issuer: str | None,
        audience: str | None,
        leeway_s: float,
    ) -> None:
        self._keys = keys
        self._secret = secret
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s

    async def identity(self, token: str) -> Identity:
        """Return the identity of a token.

        Raises InvalidToken, AccessUnavailable. Their messages never contain parts of the token.
        """
        if len(token) > _BYTES_MAX:
            raise InvalidToken(f"The token is longer than {_BYTES_MAX} bytes")
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("The token is not a JSON Web Token") from error
        claims = await self._claims(token, header)
        subject = claims.get("sub")
        return Identity(
            _subject(subject),
            frozenset(map(_encodable, _scopes(claims))),
            _seconds(claims["exp"]) + self._leeway_s,
        )

    async def _claims(self, token: str, header: dict[str, Any]) -> dict[str, Any]:
        algorithm: Any = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            keys = [Key(None, "HS256", self._secret)]
        elif algorithm in _PUBLIC:
            key_id: Any = header.get("kid")
            keys = await self._keys.find(key_id if isinstance(key_id, str) else None, algorithm)
        else:
            raise InvalidToken("The token's signature algorithm is not supported")
        if not keys:
            raise InvalidToken("The token is signed with an unknown key")
        problem: PyJWTError | None = None
        for key in keys:
            try:
                return self._decode(token, key)
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError) as error:
                problem = error  # another key may fit
            except ExpiredSignatureError as error:
                raise InvalidToken("The token has expired") from error
            except (PyJWTError, ValueError, OverflowError, RecursionError) as error:
                problem = error if isinstance(error, PyJWTError) else PyJWTError()
                break
        raise InvalidToken(_why(problem)) from problem

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about short secrets: their length is checked at start
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={
                    "require": ["exp"],
                    "verify_sub": False,  # MediaWiki's OAuth has issued numbers
                    "verify_jti": False,
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                },
            )
        return claims


def _seconds(claim: Any) -> float:
    """Return a time claim as a number, at most _FAR_S."""
    try:
        return min(float(claim), _FAR_S)
    except OverflowError:
        return _FAR_S


def _subject(claim: Any) -> str | None:
    """Return the subject: text (RFC 7519), or the number of a user as text."""
    if isinstance(claim, int | float) and not isinstance(claim, bool):
        return str(claim)
    return _encodable(claim) if isinstance(claim, str) else None


def _encodable(text: str) -> str:
    """Replace unpaired surrogates, which JSON escapes allow and UTF-8 cannot represent."""
    return text.encode("utf-8", "replace").decode()


def _why(problem: PyJWTError | None) -> str:
    match problem:
        case jwt.InvalidSignatureError():
            return "Invalid token signature"
        case jwt.InvalidIssuerError():
            return "The token has the wrong issuer"
        case jwt.InvalidAudienceError():
            return "The token is for a different audience"
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet"
        case jwt.MissingRequiredClaimError():
            return f"The token lacks the claim {problem.claim}"
        case _:
            return "The token is not a valid JSON Web Token"


def _scopes(claims: dict[str, Any]) -> Iterator[str]:
    """Yield the scopes of the claims, which are lists or texts separated by spaces.

    RFC 8693 calls the claim `scope`, some issuers `scp`, and MediaWiki `scopes`.
    """
    for name in ("scope", "scp", "scopes"):
        value: Any = claims.get(name)
        if isinstance(value, str):
            yield from value.split()
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))  # pyright: ignore
