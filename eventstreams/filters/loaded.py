"""Keeps loaded filters between evaluations, up to a number of bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BYTES_FACTOR = 12
"""Memory of a loaded filter for each byte of its serialized form; 9 to 12 were measured."""
_REPLACES = 1 / 8
"""How likely a filter that was just loaded replaces others if there is no room."""


class Loaded(Generic[T]):
    """Loaded filters by their serialized forms.

    Events come in turn to the same filters. If these have too little room, the one that was used
    least recently is always the one that is needed next, so that nothing would ever be found.
    Filters to replace are therefore chosen at random, and seldom: the part of them that has room
    is found.
    """

    def __init__(self, load: Callable[[bytes], T], *, bytes_max: int, seed: int = 0) -> None:
        self._load = load
        self._bytes_max = bytes_max
        self._random = random.Random(seed)  # noqa: S311 - protects nothing
        self._kept: dict[bytes, T] = {}
        self._order: list[bytes] = []
        """The keys of `_kept`, in any order, to choose from."""
        self.bytes = 0
        """The memory of what is kept, in estimated bytes; at most `bytes_max`."""

    def find(self, serialized: bytes) -> T | None:
        """Return the filter if it was kept."""
        return self._kept.get(serialized)

    def load(self, serialized: bytes) -> T:
        """Load a filter that was not found. It may be kept."""
        made = self._load(serialized)
        self._offer(serialized, made)
        return made

    def _offer(self, serialized: bytes, made: T) -> None:
        size = len(serialized) * BYTES_FACTOR
        if serialized in self._kept or size > self._bytes_max:
            return
        if self.bytes + size > self._bytes_max and self._random.random() >= _REPLACES:
            return
        while self.bytes + size > self._bytes_max:
            self._drop_one()
        self._kept[serialized] = made
        self._order.append(serialized)
        self.bytes += size

    def _drop_one(self) -> None:
        order = self._order
        at = self._random.randrange(len(order))
        order[at], order[-1] = order[-1], order[at]
        dropped = order.pop()
        del self._kept[dropped]
        self.bytes -= len(dropped) * BYTES_FACTOR
