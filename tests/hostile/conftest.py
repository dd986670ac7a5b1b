"""Tests in this folder attack a gateway with all parts enabled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fixtures import _no_blocking, anyio_backend
from tests.support.target import Target, target

__all__ = ["_no_blocking", "anyio_backend"]


@pytest.fixture
async def everything(tmp_path: Path) -> AsyncIterator[Target]:
    """Run a gateway with all parts enabled."""
    async with target(tmp_path) as it:
        yield it
