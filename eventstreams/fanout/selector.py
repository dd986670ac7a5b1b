"""Which events a client gets, and what of them: `filter=`, `fields=`, `sample=` and `canary=`.

Equal selectors give equal answers, so clients that ask for the same in other words share one.
"""

from __future__ import annotations

from typing import Any, cast

from eventstreams.fanout.cel import Program, compile_filter
from eventstreams.fanout.cel_cost import FilterCost
from eventstreams.fanout.document import Document, Documents
from eventstreams.fanout.projection import Tree, parse_fields, project, tree_of
from eventstreams.fanout.sample import is_sampled, parse_sample
from eventstreams.model.frame import Frame

__all__ = ["Documents", "Selector", "parse_selector"]


_CANARY = b'"canary"'
"""In the line of every canary event; most lines need no parsing to tell."""


_SHARED_US_MAX = 25.0
"""A filter that takes no longer for an ordinary event is evaluated for all its clients at once."""


class Selector:
    """Immutable; equal where the canonical filter, the fields, the sample and canaries are."""

    __slots__ = ("_program", "_takes_all", "_tree", "canaries", "fields", "filter", "sample")

    filter: str | None
    """Canonical text."""
    fields: tuple[str, ...]
    """Sorted paths, none of which covers another; () for whole events."""
    sample: float | None
    """Below 1."""
    canaries: bool
    """Whether events of `meta.domain` "canary" are sent too."""

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
        """Of the filter, where there is one."""
        return None if self._program is None else self._program.cost

    def select(self, frame: Frame, documents: Documents) -> bytes | None:
        """The line of JSON to send, or None where this event is not for this client."""
        data = frame.data
        if data is None or (not self.canaries and is_canary(frame, data, documents)):
            return None
        return data if self._takes_all else self._choose(frame, data, documents)

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
    """Whether choosing takes so long that each client has it done in its own turns."""
    cost = None if selector is None else selector.cost
    return cost is not None and cost.reference_us > _SHARED_US_MAX


def is_canary(frame: Frame, data: bytes, documents: Documents) -> bool:
    """Whether its event was made up to see that events come through; `data` is the frame's."""
    if _CANARY not in data:
        return False
    document = documents.of(frame)
    meta = document and document.fields and document.fields.get("meta")
    return isinstance(meta, dict) and cast("dict[str, Any]", meta).get("domain") == "canary"


def parse_selector(
    filter_: str | None, fields: str | None, sample: str | None, *, canaries: bool = True
) -> Selector | None:
    """None where nothing is selected. Raises InvalidFilter, InvalidFields, InvalidSample."""
    program = None if filter_ is None else compile_filter(filter_)
    paths = () if fields is None else parse_fields(fields)
    share = None if sample is None else parse_sample(sample)
    if share == 1:
        share = None
    if program is None and not paths and share is None and canaries:
        return None
    return Selector(program, paths, share, canaries=canaries)
