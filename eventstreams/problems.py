"""Finds the problems of the settings, of the files that they name, and of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

from eventstreams.access.builder import find_key_file, open_policy, read_token_secret
from eventstreams.config.settings import Settings
from eventstreams.config.validation import conflicts
from eventstreams.errors import ConfigError
from eventstreams.legacy.checks import stream_problems
from eventstreams.model.catalogue import Catalogue
from eventstreams.quota.builder import redis_password
from eventstreams.relay.builder import relay_problems


def problems_of(settings: Settings, catalogue: Catalogue | None) -> list[str]:
    """Return the problems of the settings, of the files that they name, and of the catalogue.

    Flags may have changed the settings since they were read from their file.
    """
    problems = list(conflicts(settings))
    if catalogue is not None:
        problems += problems_between(settings, catalogue)
    for check in _CHECKS:
        try:
            check(settings)
        except ConfigError as error:
            problems += error.problems
    return problems


_CHECKS: tuple[Callable[[Settings], object], ...] = (
    lambda settings: redis_password(settings.shared),
    lambda settings: find_key_file(settings.access),
    lambda settings: read_token_secret(settings.access),
    open_policy,
)


def problems_between(settings: Settings, catalogue: Catalogue) -> list[str]:
    """Return the problems of settings and catalogue with each other."""
    problems: list[str] = []
    demo, error_stream = settings.demo, settings.intake.error_stream
    for name, stream in (("stream", demo.stream), ("new_pages_stream", demo.new_pages_stream)):
        if stream is not None and stream not in catalogue.names:
            problems.append(f"demo.{name}: {stream} is not in the catalogue")
    serves_intake = settings.only != "gateway"
    if serves_intake and error_stream and catalogue.configs.get(error_stream) is None:
        problems.append(f"intake.error_stream: {error_stream} is not in the catalogue")
    if serves_intake:
        problems += stream_problems(settings.legacy.schemas, catalogue.configs)
    problems += relay_problems(settings, catalogue)
    access = settings.access
    if access.jwks_file or access.jwks_url or access.hs256_secret_file:
        return problems
    return problems + [
        f"streams.{stream.name}.scope: needs access.jwks_file, access.jwks_url or "
        "access.hs256_secret_file, for there is nothing to check tokens with"
        for stream in catalogue.streams.values()
        if stream.scope is not None
    ]
