"""Finds the filters that an event may match without evaluating all of them.

Each item is filed under the keys of one of its covers (see `requirements`), in a tree of the names
of fields. An event is compared with this tree from the root; of an object and the names that are
indexed in its place, the shorter list is visited. So finding the candidates takes time in
proportion to the fields of the event and the candidates, neither to the items nor to the paths that
they name. The index never decides: a candidate is evaluated.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Hashable
from typing import Any, Generic, TypeVar, cast

from eventstreams.filters.document import Document, Documents
from eventstreams.filters.requirements import (
    UNEQUAL,
    Cover,
    Covers,
    Key,
    KeyValue,
    Match,
    key_value,
)
from eventstreams.filters.sample import hashes_below, sample_hash
from eventstreams.model.frame import Frame

T = TypeVar("T", bound=Hashable)


class FilterIndex(Generic[T]):
    """Items by the keys that they are filed under, and items that no key describes."""

    def __init__(self) -> None:
        self._covers: dict[T, Cover | None] = {}
        """Of each item the cover that it is filed under; None for those in `_always`."""
        self._always: dict[T, None] = {}
        self._variables: dict[str, _Node[T]] = {}
        """By the first names of paths."""
        self._limits: list[float] = []
        """What `hashes_below` returns for the shares in use, sorted."""
        self._samples: dict[float, dict[T, None]] = {}
        """By these limits."""

    def __len__(self) -> int:
        return len(self._covers)

    def add(self, item: T, covers: Covers) -> None:
        """File an item. Without covers it is a candidate for every event."""
        assert item not in self._covers
        cover = self.choose(covers)
        self._covers[item] = cover
        if cover is None:
            self._always[item] = None
            return
        for key in cover:
            self._bucket(key)[item] = None

    def remove(self, item: T) -> None:
        cover = self._covers.pop(item)
        if cover is None:
            del self._always[item]
            return
        for key in cover:
            self._remove(item, key)

    def choose(self, covers: Covers) -> Cover | None:
        """Return the cover whose keys apply least often and have the fewest items."""
        if not covers:
            return None
        return min(covers, key=self._load)

    def candidates(self, frame: Frame, documents: Documents) -> list[T]:
        """Return the items that may match this event, each once. The frame must hold an event."""
        if not self._variables and not self._limits:
            return list(self._always)
        document = documents.of(frame)
        return list(self._always) if document is None else self.find(document)

    def find(self, document: Document) -> list[T]:
        """Return the items that may match this event, each once."""
        found = dict(self._always)
        if self._limits:
            for limit in self._limits[bisect_right(self._limits, sample_hash(document)) :]:
                found.update(self._samples[limit])
        fields = document.presentable() if self._variables else None
        if fields is not None:
            origin = document.origin
            variables = {
                "event": fields,
                "stream": document.stream,
                "topic": origin.topic,
                "partition": origin.partition,
            }
            _collect(self._variables, variables, found)
        return list(found)

    def _load(self, cover: Cover) -> float:
        """Estimate how often the items of these keys would be evaluated."""
        return sum(key.weight * (1 + self._count(key)) for key in cover)

    def _count(self, key: Key) -> int:
        if key.match is Match.SAMPLE:
            return len(self._samples.get(_limit(key), ()))
        node: _Node[T] | None = None
        below = self._variables
        for name in key.path:
            node = below.get(name)
            if node is None:
                return 0
            below = node.below
        assert node is not None
        return node.count(key)

    def _bucket(self, key: Key) -> dict[T, None]:
        if key.match is Match.SAMPLE:
            limit = _limit(key)
            if limit not in self._samples:
                insort(self._limits, limit)
                self._samples[limit] = {}
            return self._samples[limit]
        first, *names = key.path
        node = self._variables.setdefault(first, _Node())
        for name in names:
            node = node.below.setdefault(name, _Node())
        return node.bucket(key)

    def _remove(self, item: T, key: Key) -> None:
        if key.match is Match.SAMPLE:
            limit = _limit(key)
            del self._samples[limit][item]
            if not self._samples[limit]:
                del self._samples[limit]
                self._limits.remove(limit)
            return
        above = [self._variables]
        for name in key.path:
            above.append(above[-1][name].below)
        above.pop()
        above[-1][key.path[-1]].remove(item, key)
        for nodes, name in zip(reversed(above), reversed(key.path), strict=True):
            if not nodes[name].is_empty:
                break
            del nodes[name]


class _Node(Generic[T]):
    """The items of one path, and the nodes of the paths that continue it."""

    __slots__ = ("_equal", "_exist", "_prefixes", "below")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        """By the name of the field."""
        self._equal: dict[KeyValue, dict[T, None]] = {}
        self._exist: dict[T, None] = {}
        self._prefixes: dict[int, dict[str, dict[T, None]]] = {}
        """By the length of the prefix, of which there are `PREFIX_MAX` at most."""

    @property
    def is_empty(self) -> bool:
        return not (self.below or self._equal or self._exist or self._prefixes)

    def count(self, key: Key) -> int:
        match key.match:
            case Match.EQUALS:
                return len(self._equal.get(key.value, ()))
            case Match.STARTS_WITH:
                prefix = cast("str", key.value)
                return len(self._prefixes.get(len(prefix), {}).get(prefix, ()))
            case _:
                return len(self._exist)

    def bucket(self, key: Key) -> dict[T, None]:
        match key.match:
            case Match.EQUALS:
                return self._equal.setdefault(key.value, {})
            case Match.STARTS_WITH:
                prefix = cast("str", key.value)
                return self._prefixes.setdefault(len(prefix), {}).setdefault(prefix, {})
            case _:
                return self._exist

    def remove(self, item: T, key: Key) -> None:
        bucket = self.bucket(key)
        del bucket[item]
        if bucket:
            return
        if key.match is Match.EQUALS:
            del self._equal[key.value]
        elif key.match is Match.STARTS_WITH:
            prefix = cast("str", key.value)
            del self._prefixes[len(prefix)][prefix]
            if not self._prefixes[len(prefix)]:
                del self._prefixes[len(prefix)]

    def collect(self, value: object, found: dict[T, None]) -> None:
        """Add the items of all keys that apply to this value of an event."""
        found.update(self._exist)
        wanted = key_value(value)
        if wanted is not UNEQUAL:
            found.update(self._equal.get(wanted, {}))
        if isinstance(value, str):
            for length, items in self._prefixes.items():
                found.update(items.get(value[:length], {}))


def _limit(key: Key) -> float:
    return hashes_below(cast("float", key.value))


def _collect(nodes: dict[str, _Node[T]], variables: dict[str, Any], found: dict[T, None]) -> None:
    """Add the items of all keys that apply to these values."""
    pending = [(nodes, variables)]
    while pending:
        nodes, values = pending.pop()
        for name in nodes if len(nodes) < len(values) else values:
            if name in nodes and name in values:
                node, value = nodes[name], values[name]
                node.collect(value, found)
                if node.below and isinstance(value, dict):
                    pending.append((node.below, cast("dict[str, Any]", value)))
