"""For tests that need a gateway."""

from tests.web.conftest import _no_blocking, anyio_backend, embedded

__all__ = ["_no_blocking", "anyio_backend", "embedded"]
