"""Maps events of the upstream to our topics. Pure.

An upstream with two data centres has two topics for a stream, such as `eqiad.NAME` and
`codfw.NAME`. They stay separate in a stream of ours that has the same topics, or topics with the
same prefixes before another name. Any other stream gets all events in its first topic.
"""

from __future__ import annotations

from collections.abc import Mapping

from eventstreams.errors import RelayFault
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.model.event import Partition


class Routes:
    """Maps streams and topics of the upstream to topics of ours."""

    def __init__(self, streams: Mapping[str, str], catalogue: Catalogue) -> None:
        """Set `streams`, which maps names or aliases at the upstream to our names.

        Raises UnknownStream.
        """
        self._ours = {theirs: catalogue.get(ours) for theirs, ours in streams.items()}
        self._aliases = {
            alias: stream
            for stream in self._ours.values()
            for alias in (stream.name, *stream.aliases)
        }
        self._found: dict[tuple[str | None, str], str] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics to which events may go."""
        streams = self._ours.values()
        return tuple(dict.fromkeys(topic for stream in streams for topic in stream.topics))

    def topic(self, stream: str | None, topic: str) -> str:
        """Return our topic for an event of this stream and topic. Raises RelayFault."""
        key = (stream, topic)
        if (found := self._found.get(key)) is None:
            found = self._found[key] = self._choose(stream, topic)
        return found

    def topics_of_gap(self, partition: Partition) -> tuple[str, ...]:
        """Return our topics for events of a partition, or all if the partition is unknown."""
        for stream in self._ours.values():
            if partition.topic in stream.topics:
                return (partition.topic,)
        if len(self._ours) == 1:
            [stream] = self._ours.values()
            return (self._topic_of(stream, None, partition.topic),)
        return self.topics

    def _choose(self, name: str | None, topic: str) -> str:
        stream = self._stream(name, topic)
        if stream is None:
            raise RelayFault(
                f"an event belongs to the stream {name!r} and the topic {topic!r}, which is not "
                f"one of the relayed streams: {', '.join(self._ours)}"
            )
        return self._topic_of(stream, name, topic)

    def _stream(self, name: str | None, topic: str) -> Stream | None:
        if len(self._ours) == 1:
            [only] = self._ours.values()
            return only
        if name is not None and (found := self._ours.get(name) or self._aliases.get(name)):
            return found
        return next((s for s in self._ours.values() if topic in s.topics), None)

    def _topic_of(self, stream: Stream, name: str | None, topic: str) -> str:
        if topic in stream.topics:
            return topic
        for theirs in (name, *self._ours):
            if theirs and topic.endswith(f".{theirs}"):
                ours = topic.removesuffix(theirs) + stream.name
                if ours in stream.topics:
                    return ours
        return stream.topics[0]
