"""Builds the parts that decide who may do what from the settings, and checks these settings."""

from __future__ import annotations

from pathlib import Path

from eventstreams.access.key_sets import KeySet, parse
from eventstreams.access.policy import Policy
from eventstreams.access.producer_keys import load_producers
from eventstreams.access.tokens import Tokens
from eventstreams.config.secret_files import read_long_secret, read_secret
from eventstreams.config.settings import AccessSettings, Settings
from eventstreams.errors import ConfigError


def open_keys(settings: AccessSettings) -> KeySet:
    """Return the keys that verify tokens. Raises ConfigError."""
    file = find_key_file(settings)
    return KeySet(file=file, url=settings.jwks_url, refresh_s=settings.jwks_refresh_s)


def find_key_file(settings: AccessSettings) -> Path | None:
    """Return the file of keys, whose content is usable; None if none is set. Raises ConfigError."""
    name, path = "access.jwks_file", settings.jwks_file
    if path is None:
        return None
    try:
        usable = parse(read_secret(name, path))
    except ValueError as error:
        raise ConfigError([f"{name}: {path}: not a JSON Web Key Set: {error}"]) from error
    if not usable:
        raise ConfigError([f"{name}: {path}: contains no key that can verify tokens"])
    return Path(path)


def open_tokens(settings: AccessSettings, keys: KeySet) -> Tokens:
    """Return the verifier of tokens. Raises ConfigError."""
    return Tokens(
        keys=keys,
        secret=read_token_secret(settings),
        issuer=settings.issuer,
        audience=settings.audience,
        leeway_s=settings.leeway_s,
    )


def read_token_secret(settings: AccessSettings) -> bytes | None:
    """Return the secret that verifies tokens, or None if no file is set. Raises ConfigError."""
    return read_long_secret("access.hs256_secret_file", settings.hs256_secret_file)


def open_policy(settings: Settings) -> Policy:
    """Return the policy that can change on reload. Raises ConfigError with every problem."""
    access = settings.access
    problems: list[str] = []
    producers = admin_key = None
    try:
        if access.producer_keys is not None:
            producers = load_producers(Path(access.producer_keys))
    except ConfigError as error:
        problems += [f"access.producer_keys: {problem}" for problem in error.problems]
    try:
        admin_key = read_long_secret("access.admin_key_file", access.admin_key_file)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Policy(settings.limits, producers, admin_key)
