"""Defines fixed times and counts of the fan-out. Operators set the others in `FanoutSettings`."""

from __future__ import annotations

from dataclasses import dataclass

from eventstreams.turns import PIECE_S


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the fan-out waits, and how long it works in one go. Tests use other values."""

    retry_s: float = 0.5
    """Seconds between attempts to read a log, or partitions of it, that cannot be reached."""
    quiet_s: float = 5.0
    """Seconds without an error after which a follower counts as healthy, even without events."""
    keyframe_every_s: float = 0.25
    """The minimum seconds between keyframes that are made so that a client can join a stream."""
    turn_s: float = 0.005
    """Seconds for which a cohort writes before it yields to the event loop."""
    members_per_look: int = 32
    """How many members a cohort writes to between checks of the clock."""
    encoded_bytes: int = 64 * 2**10
    """How many bytes of a batch are compressed in one go: gzip takes about 2 ms for them."""
    scan_s: float = PIECE_S
    """Seconds for which a group examines events, or a writer works at all, before it yields to the
    event loop."""
    ends_at_once: int = 8
    """How many streams with costly filters end in one pass of the event loop. Each sends its last
    bytes and is logged in a task of its own, and all of them run in the next pass."""
