"""Tests in this folder run gateways."""

from tests.support.fixtures import _no_blocking

__all__ = ["_no_blocking"]
