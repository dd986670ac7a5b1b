"""As of the intake, whose gateway some tests run."""

from tests.intake.conftest import _no_blocking, anyio_backend

__all__ = ["_no_blocking", "anyio_backend"]
