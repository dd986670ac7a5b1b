"""Provides an open log of the broker that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventstreams.log.kafka.log import KafkaLog
from tests.support.kafka_tools import opened


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[KafkaLog]:
    async with opened(kafka) as log:
        yield log
