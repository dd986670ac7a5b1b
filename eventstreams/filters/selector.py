"""Defines selectors: the values of `filter`, `fields`, `sample` and `canary` of a request.

Equal selectors select the same bytes, so clients whose requests differ only in spelling share one.
"""

from __future__ import annotations

from typing import Any, cast

from eventstreams.filters.cel import Program, compile_filter
from eventstreams.filters.cel_cost import FilterCost
from eventstreams.filters.document import Document, Documents
from eventstreams.filters.field_paths import Comparison
from eventstreams.filters.fields import Tree, parse_fields, project, tree_of
from eventstreams.filters.requirements import NOTHING_KNOWN, Covers, Key, Match
from eventstreams.filters.sample import is_sampled, parse_sample
from eventstreams.model.frame import Frame

__all__ = ["Documents", "Selector", "parse_selector"]


_CANARY = b'"canary"'
"""Part of the line of every canary event, so that most lines need not be parsed."""

_SHARED_US_MAX = 25.0
"""The longest estimated time at which a filter that no index describes is evaluated once for all
its clients."""


class Selector:
    """Immutable; equal if the canonical filter, the fields, the sample and canaries are equal."""

    __slots__ = ("_program", "_takes_all", "_tree", "canaries", "fields", "filter", "sample")

    filter: str | None
    """Canonical text."""
    fields: tuple[str, ...]
    """Sorted paths, none of which covers another; () for whole events."""
    sample: float | None
    """Below 1."""
    canaries: bool
    """Whether events whose `meta.domain` is "canary" are sent too."""

    def __init__(
        self,
        program: Program | None,
        fields: tuple[str, ...],
        sample: float | None,
        *,
        canaries: bool = True,
    ) -> None:
        init = super().__setattr__
        init("filter", None if program is None else program.text)
        init("fields", fields)
        init("sample", sample)
        init("canaries", canaries)
        init("_program", program)
        init("_tree", tree_of(fields))
        init("_takes_all", program is None and sample is None and not fields)

    _program: Program | None
    _tree: Tree
    _takes_all: bool

    @property
    def cost(self) -> FilterCost | None:
        """The estimated cost of the filter; None without a filter."""
        return None if self._program is None else self._program.cost

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The fields of the event that the filter and `fields` name, each as its parts."""
        named = () if self._program is None else self._program.paths
        kept = tuple(tuple(path.split(".")) for path in self.fields)
        return tuple(dict.fromkeys((*named, *kept)))

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The literals with which the filter compares fields of the event."""
        return () if self._program is None else self._program.comparisons

    @property
    def conditions(self) -> tuple[tuple[str, ...], ...]:
        """The fields of the event that have to be true or false for the filter."""
        return () if self._program is None else self._program.conditions

    @property
    def covers(self) -> Covers:
        """Conditions that every selected event meets, for a `FilterIndex`."""
        covers = NOTHING_KNOWN if self._program is None else self._program.covers
        if self.sample is None:
            return covers
        return (*covers, (Key((), Match.SAMPLE, self.sample),))

    def select(self, frame: Frame, documents: Documents) -> bytes | None:
        """Return the line of JSON to send, or None if this event is not selected."""
        data = frame.data
        if data is None or (not self.canaries and is_canary(frame, data, documents)):
            return None
        return data if self._takes_all else self._choose(frame, data, documents)

    def prepare(self, frame: Frame, documents: Documents) -> None:
        """Make what the filters of all selectors share of this event, so that measuring how long
        `select` takes charges it to none of them."""
        document = documents.of(frame)
        if document is not None and self._program is not None:
            self._program.prepare(document)

    def _choose(self, frame: Frame, data: bytes, documents: Documents) -> bytes | None:
        document = documents.of(frame)
        if document is None:
            return None
        if self.sample is not None and not is_sampled(document, self.sample):
            return None
        if self._program is not None and not self._program.matches(document):
            return None
        return self._line(document) if self.fields else data

    def _line(self, document: Document) -> bytes | None:
        fields, write = document.writable()
        try:
            return write(project(fields, self._tree))
        except (ValueError, RecursionError):
            return None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a selector does not change: {name}")

    def _key(self) -> tuple[str | None, tuple[str, ...], float | None, bool]:
        return self.filter, self.fields, self.sample, self.canaries

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Selector) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        names = ("filter", "fields", "sample", "canaries")
        return f"Selector({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def is_costly(selector: Selector | None) -> bool:
    """Return whether one evaluation takes so long that it should be charged to the client."""
    cost = None if selector is None else selector.cost
    return cost is not None and cost.reference_us > _SHARED_US_MAX


def is_canary(frame: Frame, data: bytes, documents: Documents) -> bool:
    """Return whether the frame, whose bytes are `data`, holds a synthetic test event."""
    if _CANARY not in data:
        return False
    document = documents.of(frame)
    meta = document and document.fields and document.fields.get("meta")
    return isinstance(meta, dict) and cast("dict[str, Any]", meta).get("domain") == "canary"


def parse_selector(
    filter_: str | None, fields: str | None, sample: str | None, *, canaries: bool = True
) -> Selector | None:
    """Return a selector, or None if whole events of all kinds are requested.

    Raises InvalidFilter, InvalidFields, InvalidSample, FiltersUnavailable.
    """
    program = None if filter_ is None else compile_filter(filter_)
    paths = () if fields is None else parse_fields(fields)
    share = None if sample is None else parse_sample(sample)
    if share == 1:
        share = None
    if program is None and not paths and share is None and canaries:
        return None
    return Selector(program, paths, share, canaries=canaries)
