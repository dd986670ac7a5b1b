"""Read the settings file and check it: each value, and what must agree across settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec

from eventstreams.config.settings import Settings, section_of
from eventstreams.config.wording import problem_of, unknown_setting
from eventstreams.config.yaml_file import located, read_yaml, texts
from eventstreams.errors import ConfigError

_WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - nothing is bound to it
_CATALOGUE = (
    "unknown setting; this looks like a catalogue, but the file must hold settings, "
    "which name a catalogue"
)
_PORT = re.compile(r"\d{1,5}", re.ASCII)


def load(path: Path) -> Settings:
    """Read a settings file. Raises ConfigError with every problem found."""
    settings, problems = read(path)
    if problems:
        raise ConfigError(located(path, problems))
    return settings


def read(path: Path) -> tuple[Settings, list[str]]:
    """Return the settings, with defaults in place of invalid ones, and the problems found.

    Raises ConfigError if the file cannot be read or is not YAML.
    """
    document = read_yaml(path)
    if document is None:
        document = {}
    if problems := list(_with_nul(document)):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    sound = _valid_part(document, Settings, "", problems)
    settings = msgspec.convert(sound, Settings)
    return settings, problems + independent_of(problems, conflicts(settings))


def independent_of(problems: Iterable[str], further: Iterable[str]) -> list[str]:
    """Return the further problems that do not result from settings which were invalid."""
    left_out = [re.split(r"[:\[]", problem, maxsplit=1)[0] for problem in problems]
    return [each for each in further if not any(name in each for name in left_out)]


def _with_nul(document: Any) -> Iterator[str]:
    """Yield a problem for each text with a NUL character: system calls reject it too late."""
    for place, text in texts(document, "", set()):
        if "\0" in text:
            yield f"{place}: contains a NUL character"


def _valid_part(value: Any, kind: Any, path: str, problems: list[str]) -> Any:
    """Return the valid part of a value, and append the problems of the rest.

    It walks the sections itself because msgspec stops at the first problem. Raises ValidationError
    for an invalid value that is not a section.
    """
    section = section_of(kind)
    if section is None:
        msgspec.convert(value, kind)
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'the file'}: expected a mapping of settings, got {_name(value)}")
        return {}
    hints = get_type_hints(section, include_extras=True)
    sound: dict[str, Any] = {}
    for key, item in cast("Mapping[Any, Any]", value).items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            is_catalogue = where == "streams"
            said = _CATALOGUE if is_catalogue else unknown_setting(str(key), hints)
            problems.append(f"{where}: {said}")
            continue
        try:
            sound[key] = _valid_part(item, hints[key], where, problems)
        except msgspec.ValidationError as error:
            problems += _within(item, hints[key], where) or [problem_of(error, where, hints[key])]
    return sound


def _within(value: Any, kind: Any, path: str) -> list[str]:
    """Return the problems of the values of a mapping. msgspec does not say which value it means."""
    if get_origin(kind) is not dict or not isinstance(value, Mapping):
        return []
    problems: list[str] = []
    for key, item in cast("Mapping[Any, Any]", value).items():
        try:
            msgspec.convert(item, get_args(kind)[1])
        except msgspec.ValidationError as error:
            problems.append(problem_of(error, f"{path}.{key}", get_args(kind)[1]))
    return problems


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def conflicts(settings: Settings) -> Iterator[str]:
    for number, text in enumerate(settings.http.trusted_proxies):
        try:
            ip_network(text, strict=False)
        except ValueError:
            yield f"http.trusted_proxies[{number}]: {text!r} is neither an address nor a network"
    http, metrics = settings.http, settings.metrics
    if http.port and http.port == metrics.port and _overlap(http.host, metrics.host):
        yield f"metrics.port: {metrics.port} is the port of http, on the same address"
    yield from _of_tls(settings)
    yield from _of_access(settings)
    kafka = settings.log.kafka
    if settings.log.backend == "kafka" and not kafka.bootstrap_servers:
        yield "log.kafka.bootstrap_servers: required if log.backend is kafka"
    for server in kafka.bootstrap_servers:
        host, _, port = server.rpartition(":")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            yield f"log.kafka.bootstrap_servers: {server!r} is not host:port"
    if kafka.security_protocol.startswith("SASL") and not (
        kafka.sasl_username and kafka.sasl_password_file
    ):
        yield "log.kafka: SASL needs sasl_username and sasl_password_file"
    if (kafka.ssl_certfile is None) != (kafka.ssl_keyfile is None):
        yield "log.kafka: ssl_certfile and ssl_keyfile must be set together"
    if settings.relays and kafka.isolation_level != "read_committed":
        yield "log.kafka.isolation_level: relays need read_committed"
    if settings.fanout.batch_bytes_max > settings.fanout.cache_bytes_max:
        yield "fanout.batch_bytes_max: must not exceed fanout.cache_bytes_max"


def _overlap(one: str, other: str) -> bool:
    """Return whether two listeners on the same port would need the same address."""
    return one == other or not _WILDCARDS.isdisjoint((one, other))


def is_public(host: str) -> bool:
    """Return whether other machines can reach an address on which the gateway listens."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def advice(settings: Settings) -> Iterator[str]:
    """Yield advice on settings that are allowed but rarely intended."""
    http, access = settings.http, settings.access
    if not is_public(http.host):
        return
    public = f"http.host: other machines can reach {http.host}, and"
    if settings.only != "intake" and settings.limits.client_ip_connections is None:
        yield f"{public} limits.client_ip_connections lets a client open any number of streams"
    if settings.only != "gateway" and access.producer_keys is None:
        yield f"{public} without access.producer_keys anyone there may post events"


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
        yield "access: set either jwks_file or jwks_url, not both"
    if access.jwks_url is not None:
        parts = _url(access.jwks_url)
        if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
            yield "access.jwks_url: expected https://HOST/PATH"
    if shared.redis_url is not None:
        parts = _url(shared.redis_url)
        if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
            yield "shared.redis_url: expected redis://HOST:PORT/NUMBER, rediss:// or unix:///PATH"
        elif parts.password:
            yield "shared.redis_url: must not contain a password; set redis_password_file instead"


def _url(text: str) -> SplitResult | None:
    """Return the parts of a URL, or None if the text is not one."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # is validated only when it is read
    except ValueError:
        return None
    return parts
