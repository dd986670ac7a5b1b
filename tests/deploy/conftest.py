"""For tests that need a gateway."""

from tests.web.conftest import anyio_backend, embedded

__all__ = ["anyio_backend", "embedded"]
