"""Load the stream catalogue from its file.

The file has the form of Wikimedia's EventStreamConfig: a mapping of stream name to settings (under
`streams:` or at the top level, or a list of settings that each have `stream`), with optional
`defaults:` merged under each. Streams named by a regular expression (`/.../`) configure producers
only; as at Wikimedia, the catalogue leaves them out because a client cannot name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec

from eventstreams.config.wording import problem_of
from eventstreams.config.yaml_file import located, read_yaml
from eventstreams.errors import ConfigError
from eventstreams.model.catalogue import Catalogue, MinimumRate, Stream
from eventstreams.model.redaction import Rule
from eventstreams.model.stream_config import (
    NAME,
    StreamConfigs,
    is_pattern,
    pattern_problem,
    topics_of,
)


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one stream in EventStreamConfig. Settings for producers are only carried."""

    stream: str | None = None
    topics: tuple[str, ...] | None = None
    topic_prefixes: tuple[str, ...] | None = None
    topics_allowed: tuple[str, ...] = ()
    stream_aliases: tuple[str, ...] = ()
    schema_title: str | None = None
    description: str | None = None
    destination_event_service: str | None = None
    canary_events_enabled: bool | None = None
    message_key_fields: dict[str, str] | None = None
    sample: dict[str, Any] | None = None
    producers: dict[str, Any] | None = None
    consumers: dict[str, Any] | None = None
    redact: tuple[Rule, ...] = ()
    minimum_rate: MinimumRate | None = None
    display_fields: tuple[str, ...] = ()
    scope: Annotated[str, msgspec.Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+\Z")] | None = None


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue file. Raises ConfigError with every problem found."""
    digest = digest_of(path)  # before it is read: a change in between is seen later
    problems: list[str] = []
    streams: dict[str, Stream] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, settings in _entries(read_yaml(path), problems):
        where = f"streams.{name}"
        if name in entries:
            problems.append(f"{where}: declared twice")
        if isinstance(settings, dict):
            entries[name] = cast("dict[str, Any]", settings)
        stream = _stream(name, settings, where, problems)
        if stream is None:
            continue
        streams[stream.name] = stream
    if not streams and not problems:
        problems.append("streams: declares no stream that can be read")
    problems += _alias_problems(streams)
    problems += _scope_problems(streams)
    problems += [p for key in entries if is_pattern(key) and (p := pattern_problem(key))]
    if problems:
        raise ConfigError(located(path, problems))
    return Catalogue(streams, StreamConfigs(entries), digest)


def digest_of(path: Path) -> bytes | None:
    """Return a digest of the file's content, or None if the file cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except (OSError, ValueError):  # a NUL in the path
        return None


def _entries(document: Any, problems: list[str]) -> Iterator[tuple[str, Any]]:
    defaults: Any = {}
    if isinstance(document, dict) and "streams" in document:
        top = cast("dict[str, Any]", document)
        defaults = top.get("defaults") or {}
        problems += [
            f"{key}: unknown key; expected defaults or streams"
            for key in top
            if key not in ("defaults", "streams")
        ]
        document = top["streams"]
    if not isinstance(defaults, dict):
        problems.append("defaults: expected a mapping of stream settings")
        defaults = {}
    if isinstance(document, list):
        entries = cast("list[Any]", document)
        for i, entry in enumerate(entries):
            if isinstance(entry, dict) and "stream" in entry:
                fields = cast("dict[str, Any]", entry)
                yield str(fields["stream"]), _merge(defaults, fields)
            else:
                problems.append(f"streams[{i}]: expected settings with the key `stream`")
    elif isinstance(document, dict):
        settings = cast("dict[Any, Any]", document)
        for key, entry in settings.items():
            name = _name(key, entry)
            if name is None:
                problems.append(f"streams.{key}: an entry whose key is a number needs `stream`")
            else:
                yield name, _merge(defaults, {} if entry is None else entry)
    else:
        problems.append("streams: expected a mapping of stream names to settings")


def _name(key: Any, entry: Any) -> str | None:
    """The name of the stream. PHP numbers the entries that have no key, and they say their name
    themselves; in JSON such a key is text."""
    is_number = isinstance(key, int) and not isinstance(key, bool)
    if (is_number or str(key).isdecimal()) and isinstance(entry, dict) and "stream" in entry:
        return str(cast("dict[str, Any]", entry)["stream"])
    return None if is_number else str(key)


def _merge(defaults: Any, entry: Any) -> Any:
    """Merge mappings deeply; a list or a value of the entry replaces the default."""
    if not isinstance(defaults, dict) or not isinstance(entry, dict):
        return entry
    merged = dict(cast("dict[str, Any]", defaults))
    for key, value in cast("dict[str, Any]", entry).items():
        merged[key] = _merge(merged.get(key), value)
    return merged


def _stream(name: str, settings: Any, where: str, problems: list[str]) -> Stream | None:
    try:
        parsed = msgspec.convert(settings, StreamSettings)
    except msgspec.ValidationError as error:
        problems.append(problem_of(error, where, StreamSettings))
        return None
    if is_pattern(name):
        return None
    before = len(problems)
    if parsed.stream not in (None, name):
        problems.append(f"{where}.stream: must be the same as the key, but is {parsed.stream}")
    for alias in (name, *parsed.stream_aliases):
        if not NAME.fullmatch(alias):
            problems.append(
                f"{where}: {alias!r} is not a name; use letters, digits, '.', '_' and '-'"
            )
    problems += [f"{where}.{problem}" for problem in _enrich_problems(parsed.producers)]
    topics = topics_of(name, {"topics": parsed.topics, "topic_prefixes": parsed.topic_prefixes})
    if not topics:
        problems.append(f"{where}.topics: lists no topic")
    for topic in (*topics, *parsed.topics_allowed):
        if not NAME.fullmatch(topic) or topic in (".", ".."):
            problems.append(
                f"{where}: {topic!r} is not a topic name; use letters, digits, '.', '_' and '-'"
            )
    if len(problems) > before:
        return None
    return Stream(
        name,
        tuple(dict.fromkeys(topics)),
        frozenset((*topics, *parsed.topics_allowed)),
        parsed.stream_aliases,
        parsed.schema_title,
        parsed.description,
        parsed.redact,
        parsed.scope,
        parsed.minimum_rate,
        parsed.display_fields,
    )


def _enrich_problems(producers: dict[str, Any] | None) -> Iterator[str]:
    eventgate: Any = (producers or {}).get("eventgate") or {}
    where = "producers.eventgate"
    if not isinstance(eventgate, dict):
        yield f"{where}: expected a mapping"
        return
    enrich: Any = cast("dict[str, Any]", eventgate).get("enrich_fields_from_http_headers") or {}
    where += ".enrich_fields_from_http_headers"
    if not isinstance(enrich, dict):
        yield f"{where}: expected a mapping of fields to headers"
        return
    for field, header in cast("dict[Any, Any]", enrich).items():
        if not isinstance(header, str) and header is not False:
            yield f"{where}.{field}: expected the name of a header, or false"


def _scope_problems(streams: Mapping[str, Stream]) -> list[str]:
    """Reject a topic of two streams with different scopes: the weaker one would open it to all."""
    first: dict[str, Stream] = {}
    problems: list[str] = []
    for stream in streams.values():
        for topic in sorted(stream.topics_allowed):
            other = first.setdefault(topic, stream)
            if other.scope != stream.scope:
                problems.append(
                    f"streams.{stream.name}.scope: {topic} is a topic of {other.name} too, and "
                    f"needs {stream.scope or 'nothing'} here and {other.scope or 'nothing'} there"
                )
    return problems


def _alias_problems(streams: Mapping[str, Stream]) -> list[str]:
    owner = {name: name for name in streams}
    problems: list[str] = []
    for stream in streams.values():
        for alias in stream.aliases:
            if alias in owner:
                problems.append(
                    f"streams.{stream.name}.stream_aliases: {alias} already names {owner[alias]}"
                )
            owner[alias] = stream.name
    return problems
