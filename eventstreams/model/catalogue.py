"""Maps the names and aliases of streams to topics. Clients can read only these streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, NamedTuple

import msgspec

from eventstreams.errors import UnknownStream
from eventstreams.model.nearest import nearest, one_of
from eventstreams.model.redaction import Redaction, Rule
from eventstreams.model.stream_config import (
    StreamConfigs,
)

_WHERE_LISTED = "GET /v2/streams lists the names"
_HINTS_MAX = 3
"""The maximum number of streams in the hint for an unknown name."""
_NEAR_MAX = 9
"""How many similar names are considered for the hint. Several may belong to one stream."""


class MinimumRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stream should have at least `events` events in any `per_s` seconds."""

    events: Annotated[int, msgspec.Meta(ge=1)]
    per_s: Annotated[float, msgspec.Meta(ge=1)]


class Stream(NamedTuple):
    """A stream as it can be read. `name` is canonical, never an alias."""

    name: str
    topics: tuple[str, ...]
    topics_allowed: frozenset[str]
    """The topics that a Last-Event-ID may name: `topics` and, with two data centres, those of the
    other one."""
    aliases: tuple[str, ...]
    schema_title: str | None
    description: str | None
    redact: tuple[Rule, ...] = ()
    scope: str | None = None
    """The scope that a token must have to read the stream; None if the stream is public."""
    minimum_rate: MinimumRate | None = None
    display_fields: tuple[str, ...] = ()
    """Paths such as `user.name` that pages show of each event; if empty, the pages choose."""


class Selection(NamedTuple):
    """The streams of one request: the topics to read by default, those that an id may name, and the
    scopes that a token needs for them."""

    topics: tuple[str, ...]
    allowed: frozenset[str]
    scopes: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    """The names of the streams, never aliases; each once."""


class Catalogue:
    """All streams, by name and by alias. Immutable."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        configs: StreamConfigs | None = None,
        digest: bytes | None = None,
    ) -> None:
        """`configs` are those of these streams and of patterns; by default they are made from the
        streams. `digest` is that of the file that was read."""
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
        """The redactions of each topic: those of all streams that have it, whichever is read."""
        rules: dict[str, list[Rule]] = {}
        for stream in self.streams.values():
            for topic in stream.topics_allowed if stream.redact else ():
                rules.setdefault(topic, []).extend(stream.redact)
        return {topic: Redaction(found) for topic, found in rules.items()}

    def get(self, name: str) -> Stream:
        return self._by_name[name]

    def scopes_of(self, topics: Collection[str]) -> frozenset[str]:
        """Return the scopes that a token needs to read these topics."""
        streams = (s for s in self.streams.values() if not s.topics_allowed.isdisjoint(topics))
        return frozenset(stream.scope for stream in streams if stream.scope is not None)

    def may_repeat(self, name: str | None, to: str) -> bool:
        """Return whether an event meant for stream `name` may be shown to all readers of `to`.

        An event whose stream is unknown may have been meant for any stream.
        """
        shown = self.streams.get(to)
        scope = None if shown is None else shown.scope
        stream = None if name is None else self._by_name.get(name)
        meant = self.streams.values() if stream is None else (stream,)
        return all(each.scope in (None, scope) and not each.redact for each in meant)

    def hint(self, name: str) -> str:
        """Return which streams may have been meant by an unknown name, or an empty string.

        The name of a topic refers to the streams that have it.
        """
        streams = [s.name for s in self.streams.values() if name in s.topics_allowed]
        if streams:
            return f"{name} is a topic of the stream {' and '.join(streams[:_HINTS_MAX])}"
        once: dict[str, str] = {}  # a stream and its aliases are alike
        for near in nearest(name, self._by_name, _NEAR_MAX):
            once.setdefault(self._by_name[near].name, near)
        return one_of([*once.values()][:_HINTS_MAX])

    def resolve(self, names: list[str]) -> Selection:
        """Return these streams or aliases with their topics, each once. Raises UnknownStream."""
        unknown = [name for name in names if name not in self._by_name]
        if unknown:
            raise UnknownStream(unknown, self.hint(unknown[0]) or _WHERE_LISTED)
        streams = [self._by_name[name] for name in names]
        return Selection(
            tuple(dict.fromkeys(topic for s in streams for topic in s.topics)),
            frozenset(topic for s in streams for topic in s.topics_allowed),
            frozenset(s.scope for s in streams if s.scope is not None),
            tuple(dict.fromkeys(s.name for s in streams)),
        )
