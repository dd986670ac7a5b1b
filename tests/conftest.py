"""What every test gets: asyncio under AnyIO's plugin, and a failure when a test blocks the loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from tests import kafka_node

# How long an example takes says how busy the machine is, and nothing about the property.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx("eventstreams"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _stop_kafka() -> Iterator[None]:
    yield
    kafka_node.stop_shared()


@pytest.fixture(scope="session")
def kafka() -> str:
    """host:port of a real broker; see tests/kafka_node.py."""
    return kafka_node.shared()
