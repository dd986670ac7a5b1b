"""Tests in this folder run gateways."""

from tests.support.fixtures import _no_blocking, anyio_backend

__all__ = ["_no_blocking", "anyio_backend"]
