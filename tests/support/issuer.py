"""An issuer of tokens: key pairs, their JSON Web Key Set, and tokens signed with them."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = b"0123456789abcdef0123456789abcdef"


class Pair:
    """A private key, and its public key as a JSON Web Key."""

    def __init__(self, algorithm: str, key_id: str | None, bits: int = 2048) -> None:
        self.algorithm = algorithm
        self.id = key_id
        kind: Any
        match algorithm:
            case "RS256":
                self.private: Any = rsa.generate_private_key(65537, bits)
                kind = RSAAlgorithm
            case "ES256" | "ES384" | "ES256K":
                curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES256K": ec.SECP256K1}
                self.private = ec.generate_private_key(curve[algorithm]())
                kind = ECAlgorithm
            case _:
                self.private = ed25519.Ed25519PrivateKey.generate()
                kind = OKPAlgorithm
        self.jwk: dict[str, Any] = json.loads(kind.to_jwk(self.private.public_key()))
        if key_id is not None:
            self.jwk["kid"] = key_id

    def token(self, **claims: Any) -> str:
        headers = {} if self.id is None else {"kid": self.id}
        return jwt.encode(filled(claims), self.private, self.algorithm, headers=headers)


def secret_token(secret: bytes = SECRET, **claims: Any) -> str:
    return jwt.encode(filled(claims), secret, "HS256")


def filled(claims: dict[str, Any]) -> dict[str, Any]:
    """Return claims valid for an hour by default; a value of None removes a claim."""
    every = {"sub": "someone", "exp": time.time() + 3600, **claims}
    return {name: value for name, value in every.items() if value is not None}


def key_set(*pairs: Pair) -> bytes:
    return json.dumps({"keys": [pair.jwk for pair in pairs]}).encode()
