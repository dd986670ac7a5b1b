"""Tests in this folder have many clients with real sockets, on the embedded log and on Kafka."""

from tests.support.fixtures import _no_blocking, anyio_backend, embedded, site

__all__ = ["_no_blocking", "anyio_backend", "embedded", "site"]
