"""What every test of this folder gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.blocking import no_blocking


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with no_blocking():
        yield
