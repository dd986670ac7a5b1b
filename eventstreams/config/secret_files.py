"""Reads the files that hold secrets, which the settings name."""

from __future__ import annotations

from pathlib import Path

from eventstreams.errors import ConfigError

_SECRET_BYTES_MIN = 32


def read_secret(name: str, path: str) -> bytes:
    """Return the content of a file without its final line end. Raises ConfigError."""
    try:
        return Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError([f"{name}: {path}: {error.strerror or error}"]) from error


def read_long_secret(name: str, path: str | None) -> bytes | None:
    """Return a secret of at least 32 bytes, or None if no file is set. Raises ConfigError."""
    if path is None:
        return None
    secret = read_secret(name, path)
    if len(secret) < _SECRET_BYTES_MIN:
        raise ConfigError([f"{name}: {path}: fewer than {_SECRET_BYTES_MIN} bytes"])
    return secret
