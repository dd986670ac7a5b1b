"""From settings to what the gateway is built of, where they name files, addresses or streams; and
whether all of that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eventstreams.access.jwks import KeySet, parse
from eventstreams.access.policy import Policy
from eventstreams.access.producers import load_producers
from eventstreams.access.tokens import Tokens
from eventstreams.contradictions import contradictions
from eventstreams.errors import ConfigError
from eventstreams.ledger.desk import DeskShared, Line
from eventstreams.ledger.ledger import Alone, Shared
from eventstreams.ledger.redis_shared import RedisShared
from eventstreams.legacy.checks import stream_problems
from eventstreams.model.stream import Catalogue
from eventstreams.settings import AccessSettings, Settings, SharedSettings

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
    return RedisShared(
        url=settings.redis_url,
        password=_redis_password(settings),
        prefix=settings.prefix,
        timeout_s=settings.timeout_s,
    )


def _redis_password(settings: SharedSettings) -> str | None:
    name, path = "shared.redis_password_file", settings.redis_password_file
    if path is None:
        return None
    try:
        return read_secret(name, path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name}: {path}: not UTF-8"]) from error


def open_keys(settings: AccessSettings) -> KeySet:
    """Raises ConfigError."""
    file = _key_file(settings)
    return KeySet(file=file, url=settings.jwks_url, refresh_s=settings.jwks_refresh_s)


def _key_file(settings: AccessSettings) -> Path | None:
    name, path = "access.jwks_file", settings.jwks_file
    if path is None:
        return None
    try:
        usable = parse(read_secret(name, path))
    except ValueError as error:
        raise ConfigError([f"{name}: {path}: not a JSON Web Key Set: {error}"]) from error
    if not usable:
        raise ConfigError([f"{name}: {path}: holds no key that tokens can be checked with"])
    return Path(path)


def open_tokens(settings: AccessSettings, keys: KeySet) -> Tokens:
    """Raises ConfigError."""
    return Tokens(
        keys=keys,
        secret=_long_secret("access.hs256_secret_file", settings.hs256_secret_file),
        issuer=settings.issuer,
        audience=settings.audience,
        leeway_s=settings.leeway_s,
    )


def open_policy(settings: Settings) -> Policy:
    """Raises ConfigError with every problem."""
    access = settings.access
    problems: list[str] = []
    producers = admin_key = None
    try:
        if access.producer_keys is not None:
            producers = load_producers(Path(access.producer_keys))
    except ConfigError as error:
        problems += [f"access.producer_keys: {problem}" for problem in error.problems]
    try:
        admin_key = _long_secret("access.admin_key_file", access.admin_key_file)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Policy(settings.limits, producers, admin_key)


def _long_secret(name: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    secret = read_secret(name, path)
    if len(secret) < _SECRET_BYTES_MIN:
        raise ConfigError([f"{name}: {path}: fewer than {_SECRET_BYTES_MIN} bytes"])
    return secret


def problems_of(settings: Settings, catalogue: Catalogue | None) -> list[str]:
    """What is wrong with settings and, where it is known, catalogue together, and with the files
    that they name. Flags may have changed the settings since they were read."""
    problems = list(contradictions(settings))
    if catalogue is not None:
        problems += problems_between(settings, catalogue)
    for check in _CHECKS:
        try:
            check(settings)
        except ConfigError as error:
            problems += error.problems
    return problems


_CHECKS: tuple[Callable[[Settings], object], ...] = (
    lambda settings: _redis_password(settings.shared),
    lambda settings: _key_file(settings.access),
    lambda settings: _long_secret("access.hs256_secret_file", settings.access.hs256_secret_file),
    open_policy,
)


def problems_between(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What the settings name must be in the catalogue, and what that needs in the settings."""
    problems: list[str] = []
    demo, error_stream = settings.demo.stream, settings.intake.error_stream
    if demo is not None and demo not in catalogue.names:
        problems.append(f"demo.stream: {demo} is not in the catalogue")
    serves_intake = settings.only != "gateway"
    if serves_intake and error_stream and catalogue.configs.get(error_stream) is None:
        problems.append(f"intake.error_stream: {error_stream} is not in the catalogue")
    if serves_intake:
        problems += stream_problems(settings.legacy.schemas, catalogue.configs)
    access = settings.access
    if access.jwks_file or access.jwks_url or access.hs256_secret_file:
        return problems
    return problems + [
        f"streams.{stream.name}.scope: needs access.jwks_file, access.jwks_url or "
        "access.hs256_secret_file, for there is nothing to check tokens with"
        for stream in catalogue.streams.values()
        if stream.scope is not None
    ]
