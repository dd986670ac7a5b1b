"""Settings that are good each by itself and do not go together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from eventstreams.settings import Settings


_PORT = re.compile(r"\d{1,5}", re.ASCII)


def contradictions(settings: Settings) -> Iterator[str]:
    for number, text in enumerate(settings.http.trusted_proxies):
        try:
            ip_network(text, strict=False)
        except ValueError:
            yield f"http.trusted_proxies[{number}]: {text!r} is neither an address nor a network"
    yield from _of_tls(settings)
    yield from _of_access(settings)
    kafka = settings.log.kafka
    if settings.log.backend == "kafka" and not kafka.bootstrap_servers:
        yield "log.kafka.bootstrap_servers: needed when log.backend is kafka"
    for server in kafka.bootstrap_servers:
        host, _, port = server.rpartition(":")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            yield f"log.kafka.bootstrap_servers: {server!r} is not host:port"
    if kafka.security_protocol.startswith("SASL") and not (
        kafka.sasl_username and kafka.sasl_password_file
    ):
        yield "log.kafka: SASL needs sasl_username and sasl_password_file"
    if (kafka.ssl_certfile is None) != (kafka.ssl_keyfile is None):
        yield "log.kafka: ssl_certfile and ssl_keyfile come together"
    if settings.fanout.batch_bytes_max > settings.fanout.cache_bytes_max:
        yield "fanout.batch_bytes_max: more than fanout.cache_bytes_max"


def _of_tls(settings: Settings) -> Iterator[str]:
    http = settings.http
    if http.tls_certfile is None and http.tls_keyfile is not None:
        yield "http.tls_keyfile: needs http.tls_certfile"
    if http.tls_keyfile is None:
        if http.tls_certfile is not None:
            yield "http.tls_certfile: needs http.tls_keyfile"
        if http.tls_keyfile_password_file is not None:
            yield "http.tls_keyfile_password_file: needs http.tls_keyfile"


def _of_access(settings: Settings) -> Iterator[str]:
    access, shared = settings.access, settings.shared
    if access.jwks_file and access.jwks_url:
        yield "access: jwks_file and jwks_url exclude each other"
    if access.jwks_url is not None:
        parts = _url(access.jwks_url)
        if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
            yield "access.jwks_url: expected https://HOST/PATH"
    if shared.redis_url is not None:
        parts = _url(shared.redis_url)
        if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
            yield "shared.redis_url: expected redis://HOST:PORT/NUMBER, rediss:// or unix:///PATH"
        elif parts.password:
            yield "shared.redis_url: holds a password; that belongs into redis_password_file"


def _url(text: str) -> SplitResult | None:
    """None where it is no URL."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # is looked at only when asked for
    except ValueError:
        return None
    return parts
