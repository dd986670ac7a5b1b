"""Tests that take `site` run on the embedded log and on Kafka."""

from tests.support.fixtures import _no_blocking, anyio_backend, embedded, kafka_site, site

__all__ = ["_no_blocking", "anyio_backend", "embedded", "kafka_site", "site"]
