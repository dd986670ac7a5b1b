"""What a subscription asks for. Equal wants at equal positions get the same bytes, made once."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from eventstreams.fanout.compression import Encoding
from eventstreams.fanout.selector import Selector
from eventstreams.model import sse
from eventstreams.model.event import Partition
from eventstreams.model.extent import Extent


class Format(Enum):
    SSE = "text/event-stream"
    NDJSON = "application/json"


class Want(NamedTuple):
    """Partitions in the order their ids are written, what of them, and the shape of the answer.

    `growing` names the topics that are wanted whole: a partition that such a topic gains later
    joins the subscription; a client that named its partitions itself keeps just those.
    """

    partitions: tuple[Partition, ...]
    growing: frozenset[str]
    format: Format
    selector: Selector | None = None
    checkpoints: bool = False
    """Heartbeats are ids: while nothing matches, the client's position moves all the same."""
    gap_fails: bool = False
    """The stream ends where something is missing, rather than go on behind it."""
    extent: Extent | None = None
    """Of a stream that ends by itself. `left` is None here: it is each client's own."""
    encoding: Encoding = Encoding.IDENTITY

    def heartbeat(self, position_id: bytes) -> bytes:
        """Says that the stream lives, and finds out whether the client does."""
        if self.format is not Format.SSE:
            return b"\n"
        return sse.checkpoint(position_id) if self.checkpoints else sse.HEARTBEAT


def everything(format_: Format) -> Want:
    """All there is, for ever; the partitions are still to be found."""
    return Want((), frozenset(), format_)
