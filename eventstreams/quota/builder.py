"""Opens the place where limits are counted, which the settings name."""

from __future__ import annotations

from eventstreams.config.secret_files import read_secret
from eventstreams.config.settings import SharedSettings
from eventstreams.errors import ConfigError
from eventstreams.quota.quota import LocalQuota, QuotaBackend
from eventstreams.quota.workers import QuotaClient, WorkerQuota


def open_shared(settings: SharedSettings, line: QuotaClient | None) -> QuotaBackend:
    """Return the counters of limits: in Redis, the parent process, or this process.

    Raises ConfigError.
    """
    if settings.redis_url is None:
        return LocalQuota() if line is None else WorkerQuota(line)
    from eventstreams.quota.redis_quota import RedisQuota  # noqa: PLC0415 - loads much

    return RedisQuota(
        url=settings.redis_url,
        password=redis_password(settings),
        prefix=settings.prefix,
        timeout_s=settings.timeout_s,
    )


def redis_password(settings: SharedSettings) -> str | None:
    """Return the Redis password, or None if none is set. Raises ConfigError."""
    name, path = "shared.redis_password_file", settings.redis_password_file
    if path is None:
        return None
    try:
        return read_secret(name, path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name}: {path}: not UTF-8"]) from error
