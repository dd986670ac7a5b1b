"""The stream catalogue: names and aliases -> topics. Only what it names can be read.

The file has the form of Wikimedia's EventStreamConfig: a mapping of stream name to settings (under
`streams:` or at the top, or a list of settings that each have `stream`), with optional `defaults:`
merged under each. Streams named by a regular expression (`/.../`) are for producers; they are kept
out, as upstream does, because a client can't name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import msgspec

from eventstreams.errors import ConfigError, UnknownStream
from eventstreams.model.minimum_rate import MinimumRate
from eventstreams.model.redaction import Redaction, Rule
from eventstreams.model.stream_config import (
    NAME,
    StreamConfigs,
    is_pattern,
    pattern_problem,
    topics_of,
)
from eventstreams.yaml_file import read_yaml


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What EventStreamConfig says of a stream. Producers' settings are carried, not read, here."""

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
    scope: Annotated[str, msgspec.Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+\Z")] | None = None


class Stream(NamedTuple):
    """A stream as it can be read. `name` is canonical, never an alias."""

    name: str
    topics: tuple[str, ...]
    topics_allowed: frozenset[str]
    """What a Last-Event-ID may name: `topics` and, with two data centres, the other's too."""
    aliases: tuple[str, ...]
    schema_title: str | None
    description: str | None
    redact: tuple[Rule, ...] = ()
    scope: str | None = None
    """What a token must hold to read it; None: it is public."""
    minimum_rate: MinimumRate | None = None


class Selection(NamedTuple):
    """The streams of one request: what is read by default, what may be resumed, and what a token
    must hold for all of that."""

    topics: tuple[str, ...]
    allowed: frozenset[str]
    scopes: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    """Of the streams, never aliases; each once."""


class Catalogue:
    """All streams, by name and by alias. Immutable."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        configs: StreamConfigs | None = None,
        digest: bytes | None = None,
    ) -> None:
        """`configs`: of these streams and of patterns; else what the streams themselves say.
        `digest`: of the file this was read from."""
        self.digest = digest
        self.streams = dict(streams)
        self.configs = configs or StreamConfigs(
            {
                stream.name: {"topics": stream.topics, "schema_title": stream.schema_title}
                for stream in streams.values()
            }
        )
        self._by_name = {name: s for s in streams.values() for name in (s.name, *s.aliases)}

    @property
    def names(self) -> list[str]:
        """Every name a client may use, aliases included, sorted."""
        return sorted(self._by_name)

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that can be read."""
        return frozenset(topic for s in self.streams.values() for topic in s.topics_allowed)

    @property
    def redactions(self) -> dict[str, Redaction]:
        """By topic: the rules of all streams that have it, whichever of them is read."""
        rules: dict[str, list[Rule]] = {}
        for stream in self.streams.values():
            for topic in stream.topics_allowed if stream.redact else ():
                rules.setdefault(topic, []).extend(stream.redact)
        return {topic: Redaction(found) for topic, found in rules.items()}

    def get(self, name: str) -> Stream:
        return self._by_name[name]

    def scopes_of(self, topics: Collection[str]) -> frozenset[str]:
        """What a token must hold to read these."""
        streams = (s for s in self.streams.values() if not s.topics_allowed.isdisjoint(topics))
        return frozenset(stream.scope for stream in streams if stream.scope is not None)

    def may_repeat(self, name: str | None, to: str) -> bool:
        """Whether what was meant for stream `name` may be shown to all who read stream `to`. Where
        that is none that is declared it may have been meant for any."""
        shown = self.streams.get(to)
        scope = None if shown is None else shown.scope
        stream = None if name is None else self._by_name.get(name)
        meant = self.streams.values() if stream is None else (stream,)
        return all(each.scope in (None, scope) and not each.redact for each in meant)

    def resolve(self, names: list[str]) -> Selection:
        """Streams or aliases -> topics, each once, in order. Raises UnknownStream."""
        unknown = [name for name in names if name not in self._by_name]
        if unknown:
            raise UnknownStream(unknown)
        streams = [self._by_name[name] for name in names]
        return Selection(
            tuple(dict.fromkeys(topic for s in streams for topic in s.topics)),
            frozenset(topic for s in streams for topic in s.topics_allowed),
            frozenset(s.scope for s in streams if s.scope is not None),
            tuple(dict.fromkeys(s.name for s in streams)),
        )


def load_catalogue(path: Path) -> Catalogue:
    """Reads a catalogue file. Raises ConfigError with every problem found."""
    digest = digest_of(path)  # before it is read: a change in between is seen later
    problems: list[str] = []
    streams: dict[str, Stream] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, settings in _entries(read_yaml(path), problems):
        where = f"streams.{name}"
        if name in entries:
            problems.append(f"{where}: named twice")
        if isinstance(settings, dict):
            entries[name] = cast("dict[str, Any]", settings)
        stream = _stream(name, settings, where, problems)
        if stream is None:
            continue
        streams[stream.name] = stream
    if not streams and not problems:
        problems.append("streams: names no stream that can be read")
    problems += _alias_problems(streams)
    problems += _scope_problems(streams)
    problems += [p for key in entries if is_pattern(key) and (p := pattern_problem(key))]
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return Catalogue(streams, StreamConfigs(entries), digest)


def digest_of(path: Path) -> bytes | None:
    """Tells one content of a file from another; None where it can't be read."""
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
            f"{key}: unknown; known here: defaults, streams"
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
                problems.append(f"streams.{key}: an entry with a number as its key needs `stream`")
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
    """Deep for mappings; a list or a value of the entry replaces the default."""
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
        problems.append(f"{where}: {error}")
        return None
    if is_pattern(name):
        return None
    before = len(problems)
    if parsed.stream not in (None, name):
        problems.append(f"{where}.stream: says {parsed.stream}")
    for alias in (name, *parsed.stream_aliases):
        if not NAME.fullmatch(alias):
            problems.append(f"{where}: {alias!r} is not a name: letters, digits, '.', '_', '-'")
    problems += [f"{where}.{problem}" for problem in _enrich_problems(parsed.producers)]
    topics = topics_of(name, {"topics": parsed.topics, "topic_prefixes": parsed.topic_prefixes})
    if not topics:
        problems.append(f"{where}.topics: names no topic")
    for topic in (*topics, *parsed.topics_allowed):
        if not NAME.fullmatch(topic) or topic in (".", ".."):
            problems.append(f"{where}: {topic!r} is not a topic: letters, digits, '.', '_', '-'")
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
    """A topic that needs a scope by one stream and not by another would be open to everyone."""
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
