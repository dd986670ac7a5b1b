"""Builds relays from settings, and checks these settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from eventstreams.config.settings import RelaySettings, Settings
from eventstreams.errors import ConfigError
from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.nearest import did_you_mean
from eventstreams.model.timestamp import parse_moment
from eventstreams.relay.relay import Relay
from eventstreams.relay.routes import Routes
from eventstreams.relay.upstream import BadUpstream, Upstream, find_upstream


def relay_problems(settings: Settings, catalogue: Catalogue) -> Iterator[str]:
    """Yield the problems of the settings of relays."""
    for name, relay in settings.relays.items():
        where = f"relays.{name}"
        try:
            _since_ms(relay)
        except ValueError as error:
            yield f"{where}.since: {error}"
        if relay.token_file is not None and not Path(relay.token_file).is_file():
            yield f"{where}.token_file: {relay.token_file}: the file does not exist"
        try:
            streams = _streams(relay, _upstream(relay))
        except BadUpstream as error:
            yield f"{where}.url: {error}"
            continue
        for ours in streams.values():
            if ours not in catalogue.names:
                hint = did_you_mean(ours, catalogue.names)
                unknown = f"{where}.streams: {ours} is not in the catalogue"
                yield f"{unknown}; {hint}" if hint else unknown


def open_relay(
    name: str,
    settings: RelaySettings,
    *,
    catalogue: Catalogue,
    log: Log,
    metrics: Metrics,
    ends_when_refused: bool = False,
) -> Relay:
    """Return a relay, not running. Raises ConfigError."""
    try:
        upstream = _upstream(settings)
        since_ms = _since_ms(settings)
    except ValueError as error:
        raise ConfigError([f"relays.{name}: {error}"]) from error
    return Relay(
        name=name,
        upstream=upstream,
        routes=Routes(_streams(settings, upstream), catalogue),
        log=log,
        metrics=metrics,
        since_ms=since_ms,
        token_file=None if settings.token_file is None else Path(settings.token_file),
        stall_timeout_s=settings.stall_timeout_s,
        event_bytes_max=settings.event_bytes_max,
        ends_when_refused=ends_when_refused,
    )


def _upstream(settings: RelaySettings) -> Upstream:
    """Return the upstream of a relay. Raises BadUpstream."""
    return find_upstream(
        settings.url,
        tuple(settings.streams),
        filter_=settings.filter,
        canaries=settings.canaries,
        contact=settings.contact,
    )


def _streams(settings: RelaySettings, upstream: Upstream) -> Mapping[str, str]:
    """Return our stream for each stream of the upstream."""
    if isinstance(settings.streams, dict):
        return settings.streams
    return {name: name for name in upstream.streams}


def _since_ms(settings: RelaySettings) -> int | None:
    """Return the setting `since` as Unix time in ms. Raises ValueError."""
    if settings.since is None:
        return None
    at = parse_moment(settings.since, int(time.time() * 1000))
    if at is None:
        raise ValueError(f"{settings.since!r} is not a time")
    return max(0, at)
