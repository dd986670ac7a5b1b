"""Many clients at once, over real sockets, on the embedded log and on Kafka."""

from tests.web.conftest import _no_blocking, anyio_backend, embedded, site

__all__ = ["_no_blocking", "anyio_backend", "embedded", "site"]
