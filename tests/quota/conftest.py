"""Provides a separate real Redis to each test that requests one."""

from tests.support.redis_server import redis

__all__ = ["redis"]
