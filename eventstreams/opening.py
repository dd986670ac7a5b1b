"""From settings to what the gateway is built of, where files or addresses are named there."""

from __future__ import annotations

from pathlib import Path

from eventstreams.access.jwks import KeySet, parse
from eventstreams.access.producers import Producers, load_producers
from eventstreams.access.tokens import Tokens
from eventstreams.errors import ConfigError
from eventstreams.ledger.desk import DeskShared, Line
from eventstreams.ledger.ledger import Alone, Shared
from eventstreams.ledger.redis_shared import RedisShared
from eventstreams.settings import AccessSettings, SharedSettings

_SECRET_BYTES_MIN = 32


def read_secret(name: str, path: str) -> bytes:
    """What a file holds, without the end of its line. Raises ConfigError."""
    try:
        return Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError([f"{name}: {path}: {error.strerror or error}"]) from error


def open_shared(settings: SharedSettings, line: Line | None) -> Shared:
    """Raises ConfigError."""
    if settings.redis_url is None:
        return Alone() if line is None else DeskShared(line)
    password = None
    if settings.redis_password_file is not None:
        password = read_secret("shared.redis_password_file", settings.redis_password_file).decode()
    return RedisShared(
        url=settings.redis_url,
        password=password,
        prefix=settings.prefix,
        timeout_s=settings.timeout_s,
    )


def open_keys(settings: AccessSettings) -> KeySet:
    """Raises ConfigError."""
    path = None
    if settings.jwks_file is not None:
        path = Path(settings.jwks_file)
        try:
            parse(read_secret("access.jwks_file", settings.jwks_file))
        except ValueError as error:
            raise ConfigError([f"access.jwks_file: {path}: {error}"]) from error
    return KeySet(file=path, url=settings.jwks_url, refresh_s=settings.jwks_refresh_s)


def open_tokens(settings: AccessSettings, keys: KeySet) -> Tokens:
    """Raises ConfigError."""
    return Tokens(
        keys=keys,
        secret=_long_secret("access.hs256_secret_file", settings.hs256_secret_file),
        issuer=settings.issuer,
        audience=settings.audience,
        leeway_s=settings.leeway_s,
    )


def open_admin_key(settings: AccessSettings) -> bytes | None:
    """Raises ConfigError."""
    return _long_secret("access.admin_key_file", settings.admin_key_file)


def _long_secret(name: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    secret = read_secret(name, path)
    if len(secret) < _SECRET_BYTES_MIN:
        raise ConfigError([f"{name}: {path}: fewer than {_SECRET_BYTES_MIN} bytes"])
    return secret


def open_producers(settings: AccessSettings) -> Producers | None:
    """Raises ConfigError."""
    return None if settings.producer_keys is None else load_producers(Path(settings.producer_keys))
