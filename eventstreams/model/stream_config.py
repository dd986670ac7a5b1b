"""Reads stream configuration in the form of Wikimedia's EventStreamConfig.

It holds the settings of each stream for producers and consumers. A stream is declared by its exact
name, or many streams by a regular expression (`/…/`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

from eventstreams.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9._\-]{1,249}", re.ASCII)
"""The name of a stream or a topic."""
_PUNCTUATION = str.maketrans("", "", "._-")
_NEVER_PREFIXED = "eventlogging_"
_DEPTH_MAX = 10
_CONSTRAINTS_LENGTH_MAX = 2048
"""Each constraint may be compared with the settings of every stream."""
_REMEMBERED_MAX = 1000
"""How many names are cached with the pattern that each matches. Limited, because clients choose
these names."""
_CONSTRAINT = re.compile(r"([^=\[\]|]+)((?:\[[^\[\]=|]+\])*)=([^|]*)")


class StreamConfig(NamedTuple):
    name: str
    """The requested name, or the pattern itself; never an alias."""
    pattern: str | None
    """The key `/…/` that declares the stream; None if its name does."""
    schema_title: str | None
    topics: tuple[str, ...]
    message_key_fields: Mapping[str, str] | None
    canary_events_enabled: bool
    enrich: Mapping[str, str | None]
    """`producers.eventgate.enrich_fields_from_http_headers`: field -> header, or None to leave the
    field out."""
    settings: Mapping[str, Any]
    """All settings, merged over the defaults, with `stream` and `topics`."""

    @property
    def label(self) -> str:
        """The label in metrics: the pattern if there is one, so that names cannot add labels."""
        return self.pattern or self.name


class StreamConfigs:
    """The configurations of all streams of a catalogue. Immutable, except for a cache of names."""

    def __init__(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """`entries`: name or pattern -> settings, merged over the defaults. Raises ConfigError."""
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        self._entries = dict(entries)
        self._named: dict[str, StreamConfig] = {}
        self._remembered: dict[str, StreamConfig | None] = {}
        problems: list[str] = []
        for key, settings in entries.items():
            if not is_pattern(key):
                self._named[key] = _config(key, None, settings)
                continue
            problem = pattern_problem(key)
            if problem is None:
                self._patterns.append((re.compile(key[1:-1]), key))
            else:
                problems.append(problem)
        if problems:
            raise ConfigError(problems)

    def get(self, name: str) -> StreamConfig | None:
        """Return the configuration of this name, or else that of the first pattern it matches."""
        config = self._named.get(name)
        if config is not None or not self._patterns or not NAME.fullmatch(name):
            return config
        if name not in self._remembered:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            key = next((key for pattern, key in self._patterns if pattern.search(name)), None)
            self._remembered[name] = key and _config(name, key, self._entries[key])  # type: ignore[assignment]
        return self._remembered[name]

    def meant(self, name: str) -> str | None:
        """Return the stream that an undeclared name refers to, or None if none is known.

        It may be an alias or a topic of the stream, or differ in case and punctuation. The lookup
        takes constant time, because clients send any number of names.
        """
        found = self._other_names.get(_folded(name)) if NAME.fullmatch(name) else None
        return found and found.name

    @cached_property
    def _other_names(self) -> dict[str, StreamConfig]:
        """Streams by their topics, aliases and names without case and punctuation."""
        return {
            _folded(name): config
            for names_of in (_topics, _aliases, _own_name)  # later ones win
            for config in self._named.values()
            for name in names_of(config)
        }

    def canaries(self) -> list[StreamConfig]:
        """Return the streams with canary_events_enabled, without patterns, which name no stream."""
        return [config for config in self._named.values() if config.canary_events_enabled]

    def titles(self) -> dict[str, str | None]:
        """Return the schema title of each name or pattern."""
        return {key: settings.get("schema_title") for key, settings in self._entries.items()}

    def select(
        self, names: Sequence[str] | None, constraints: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Return the settings of these streams, without undeclared ones; of all streams if None.

        Among all streams, a pattern is its own key, and its topics are patterns, too.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in self._entries if names is None else names:
            if names is None and is_pattern(name):
                settings = _of_pattern(name, self._entries[name])
            else:
                config = self.get(name)
                if config is None:
                    continue
                settings = dict(config.settings)
            settings.pop("redact", None)  # its titles must not be published
            if matches(settings, constraints):
                found[name] = settings
        return found


def _topics(config: StreamConfig) -> tuple[str, ...]:
    return config.topics


def _aliases(config: StreamConfig) -> tuple[str, ...]:
    return tuple(config.settings.get("stream_aliases") or ())


def _own_name(config: StreamConfig) -> tuple[str, ...]:
    return (config.name,)


def _folded(name: str) -> str:
    return name.casefold().translate(_PUNCTUATION)


def is_pattern(key: str) -> bool:
    return len(key) > 2 and key[0] == key[-1] == "/"


def pattern_problem(key: str) -> str | None:
    """Return what is wrong with a pattern, or None."""
    try:
        re.compile(key[1:-1])
    except re.error as error:
        return f"streams.{key}: not a regular expression: {error}"
    return None


def topics_of(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `topics`, or else the name after each of `topic_prefixes`, or else the name.

    Streams of the old EventLogging have no prefixes, whatever the defaults are.
    """
    topics = settings.get("topics")
    if topics is not None:
        return tuple(topics)
    prefixes = settings.get("topic_prefixes")
    if not prefixes or name.startswith(_NEVER_PREFIXED):
        return (name,)
    return tuple(prefix + name for prefix in prefixes)


def parse_constraints(text: str) -> dict[str, Any]:
    """Return `k=v|p[q]=v` as nested mappings. Raises ValueError."""
    if len(text) > _CONSTRAINTS_LENGTH_MAX:
        raise ValueError(
            f"they have {len(text)} characters; the limit is {_CONSTRAINTS_LENGTH_MAX}"
        )
    constraints: dict[str, Any] = {}
    for part in text.split("|"):
        match = _CONSTRAINT.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not of the form name=value or name[part]=value")
        path = [match[1], *re.findall(r"\[([^\[\]]+)\]", match[2])]
        if len(path) > _DEPTH_MAX:
            raise ValueError(f"{part!r} is deeper than {_DEPTH_MAX}")
        inner = constraints
        for name in path[:-1]:
            below: Any = inner.setdefault(name, {})
            if not isinstance(below, dict):
                raise ValueError(f"{part!r} contradicts an earlier constraint")
            inner = cast("dict[str, Any]", below)
        inner[path[-1]] = match[3]
    return constraints


def matches(settings: Any, constraints: Any, depth: int = 0) -> bool:
    """Return whether the settings meet the constraints.

    Scalars are compared as PHP's text of them, as Wikimedia does: true is "1", false is "". A list
    must contain all values of its constraint.
    """
    if isinstance(constraints, Mapping):
        wanted = cast("Mapping[str, Any]", constraints)
        if depth > _DEPTH_MAX or not isinstance(settings, Mapping):
            return False
        inner = cast("Mapping[str, Any]", settings)
        return all(n in inner and matches(inner[n], wanted[n], depth + 1) for n in wanted)
    if isinstance(settings, Mapping) or isinstance(settings, list) != isinstance(constraints, list):
        return False
    if isinstance(constraints, list):
        held = {_text(each) for each in cast("list[Any]", settings)}
        return all(_text(each) in held for each in cast("list[Any]", constraints))
    return _text(settings) == _text(constraints)


def _text(value: Any) -> str:
    if value is None or value is False:
        return ""
    return "1" if value is True else str(value)


def _config(name: str, pattern: str | None, settings: Mapping[str, Any]) -> StreamConfig:
    topics = topics_of(name, settings)
    producers: dict[str, Any] = settings.get("producers") or {}
    eventgate: dict[str, Any] = producers.get("eventgate") or {}
    enrich: dict[str, str | bool] = eventgate.get("enrich_fields_from_http_headers") or {}
    return StreamConfig(
        name=name,
        pattern=pattern,
        schema_title=settings.get("schema_title"),
        topics=topics,
        message_key_fields=settings.get("message_key_fields"),
        canary_events_enabled=bool(settings.get("canary_events_enabled")),
        enrich={field: header or None for field, header in enrich.items()},  # type: ignore[misc]
        settings={**settings, "stream": name, "topics": list(topics)},
    )


def _of_pattern(key: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    prefixes = settings.get("topic_prefixes")
    topics = settings.get("topics")
    if topics is None:
        inner = key[1:-1]
        if prefixes:
            choice = f"({'|'.join(re.escape(prefix) for prefix in prefixes)})"
            inner = f"^{choice}{inner[1:]}" if inner.startswith("^") else choice + inner
        topics = [f"/{inner}/"]
    return {**settings, "stream": key, "topics": list(topics)}
