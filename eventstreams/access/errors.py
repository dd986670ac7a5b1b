"""What a request is refused with for want of a token or a key that reaches far enough.

ServiceProblem
├── Unauthorized           401 unauthorized: a token or a key is needed
│   └── InvalidToken           of the same: the one that came is not good
├── Forbidden              403 forbidden: it does not reach as far as that
└── AccessUnavailable      503 unavailable: tokens or tickets can't be checked now

Each has the `challenge` that its answer's WWW-Authenticate holds.
"""

from __future__ import annotations

from typing import ClassVar

from eventstreams.errors import Later, ServiceProblem


class Unauthorized(ServiceProblem):
    status = 401
    type = "unauthorized"
    title = "Unauthorized"
    challenge: ClassVar[bytes] = b"Bearer"


class InvalidToken(Unauthorized):
    """The detail says what is wrong, and nothing of what came."""

    challenge = b'Bearer error="invalid_token"'


class Forbidden(ServiceProblem):
    status = 403
    type = "forbidden"
    title = "Forbidden"

    def __init__(self, lacking: list[str]) -> None:
        super().__init__(f"The token lacks: {' '.join(lacking)}")
        self.challenge = f'Bearer error="insufficient_scope", scope="{" ".join(lacking)}"'.encode()


class AccessUnavailable(Later):
    pass
