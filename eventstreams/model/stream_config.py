"""Stream configuration as Wikimedia's EventStreamConfig has it: what producers and consumers are
told of a stream, by its exact name or by a regular expression (`/…/`) that declares many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from eventstreams.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9._\-]{1,249}", re.ASCII)
"""Of a stream or a topic."""
_NEVER_PREFIXED = "eventlogging_"
_DEPTH_MAX = 10
_CONSTRAINTS_LENGTH_MAX = 2048
"""Each constraint may be compared with the settings of every stream."""
_REMEMBERED_MAX = 1000
"""Names that patterns matched; clients choose them."""
_CONSTRAINT = re.compile(r"([^=\[\]|]+)((?:\[[^\[\]=|]+\])*)=([^|]*)")


class StreamConfig(NamedTuple):
    name: str
    """As asked for, or the pattern itself; never an alias."""
    pattern: str | None
    """The key `/…/` it is declared by, if not by its name."""
    schema_title: str | None
    topics: tuple[str, ...]
    message_key_fields: Mapping[str, str] | None
    canary_events_enabled: bool
    enrich: Mapping[str, str | None]
    """`producers.eventgate.enrich_fields_from_http_headers`: field -> header; None: not at all."""
    settings: Mapping[str, Any]
    """Everything, merged over the defaults, with `stream` and `topics`."""

    @property
    def label(self) -> str:
        """What stands for it in metrics: there are as many as the catalogue declares."""
        return self.pattern or self.name


class StreamConfigs:
    """All of a catalogue. Immutable but for what it remembers."""

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
        """That of the exact name, else of the first pattern that is found in it."""
        config = self._named.get(name)
        if config is not None or not self._patterns or not NAME.fullmatch(name):
            return config
        if name not in self._remembered:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            key = next((key for pattern, key in self._patterns if pattern.search(name)), None)
            self._remembered[name] = key and _config(name, key, self._entries[key])  # type: ignore[assignment]
        return self._remembered[name]

    def canaries(self) -> list[StreamConfig]:
        """Those with canary_events_enabled; a pattern names no stream to send one to."""
        return [config for config in self._named.values() if config.canary_events_enabled]

    def titles(self) -> dict[str, str | None]:
        """The schema title of each name or pattern."""
        return {key: settings.get("schema_title") for key, settings in self._entries.items()}

    def select(
        self, names: Sequence[str] | None, constraints: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Settings of these streams, those not declared left out; of all where None.

        Patterns among all stand under themselves, their topics patterns too.
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
            settings.pop("redact", None)  # its titles are what nobody may see
            if matches(settings, constraints):
                found[name] = settings
        return found


def is_pattern(key: str) -> bool:
    return len(key) > 2 and key[0] == key[-1] == "/"


def pattern_problem(key: str) -> str | None:
    """What is wrong with it, if anything."""
    try:
        re.compile(key[1:-1])
    except re.error as error:
        return f"streams.{key}: not a regular expression: {error}"
    return None


def topics_of(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """`topics`, else each of `topic_prefixes` before the name, else the name.

    Streams of old EventLogging have no prefix, whatever the defaults say.
    """
    topics = settings.get("topics")
    if topics is not None:
        return tuple(topics)
    prefixes = settings.get("topic_prefixes")
    if not prefixes or name.startswith(_NEVER_PREFIXED):
        return (name,)
    return tuple(prefix + name for prefix in prefixes)


def parse_constraints(text: str) -> dict[str, Any]:
    """`k=v|p[q]=v` as nested mappings. Raises ValueError."""
    if len(text) > _CONSTRAINTS_LENGTH_MAX:
        raise ValueError(
            f"they have {len(text)} characters, and may have {_CONSTRAINTS_LENGTH_MAX} at most"
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
                raise ValueError(f"{part!r} contradicts what stands before it")
            inner = cast("dict[str, Any]", below)
        inner[path[-1]] = match[3]
    return constraints


def matches(settings: Any, constraints: Any, depth: int = 0) -> bool:
    """Whether all that is constrained is so. Scalars are compared as PHP's text of them, as
    upstream does: true is "1", false is "". A list must hold all that its constraint lists."""
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
