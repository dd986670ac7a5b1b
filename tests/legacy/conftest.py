"""Tests in this folder run gateways."""

from tests.support.fixtures import anyio_backend

__all__ = ["anyio_backend"]
