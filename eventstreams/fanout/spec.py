"""Defines what a subscription reads, and its format. Equal specs at equal positions share bytes."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from eventstreams.fanout.compression import Encoding
from eventstreams.filters.selector import Selector
from eventstreams.model import sse
from eventstreams.model.event import Partition
from eventstreams.model.stop_condition import StopCondition

_CAUGHT_UP = {"message": "All events so far have been sent; those that follow are live"}


class Format(Enum):
    """The format of a stream, by its media type."""

    SSE = "text/event-stream"
    NDJSON = "application/json"


class SubscriptionSpec(NamedTuple):
    """The partitions of a subscription, its selector, and the form of its response.

    `partitions` are in the order in which ids list them. `growing` names the topics of which the
    subscription covers all partitions: those that such a topic gains later are added. A client that
    named single partitions keeps only these.
    """

    partitions: tuple[Partition, ...]
    growing: frozenset[str]
    format: Format
    selector: Selector | None = None
    checkpoints: bool = False
    """Whether heartbeats carry an id, so that the client's position advances between matches."""
    gap_fails: bool = False
    """Whether the stream ends at a gap instead of continuing after it."""
    stop_condition: StopCondition | None = None
    """The condition at which the stream ends. `remaining` is None: each client has its own."""
    encoding: Encoding = Encoding.IDENTITY

    def heartbeat(self, position_id: bytes) -> bytes:
        """Return a heartbeat. It keeps the connection open and detects a lost client."""
        if self.format is not Format.SSE:
            return b"\n"
        return sse.checkpoint(position_id) if self.checkpoints else sse.HEARTBEAT

    def caught_up(self, position_id: bytes) -> bytes:
        """Return a control frame that says that all events so far have been sent."""
        write = sse.control if self.format is Format.SSE else sse.control_line
        return write("caught-up", _CAUGHT_UP, position_id)


def everything(format_: Format) -> SubscriptionSpec:
    """Return a spec for all events without an end; its partitions are not set yet."""
    return SubscriptionSpec((), frozenset(), format_)
