"""What a subscription asks for. Equal wants at equal positions get the same bytes, made once."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from eventstreams.model.event import Partition


class Format(Enum):
    SSE = "text/event-stream"
    NDJSON = "application/json"


class Want(NamedTuple):
    """Partitions in the order their ids are written, and the shape of the answer.

    `growing` names the topics that are wanted whole: a partition that such a topic gains later
    joins the subscription; a client that named its partitions itself keeps just those.
    """

    partitions: tuple[Partition, ...]
    growing: frozenset[str]
    format: Format
