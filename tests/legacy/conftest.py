"""The event loop that the gateway runs on."""

from tests.intake.conftest import anyio_backend

__all__ = ["anyio_backend"]
