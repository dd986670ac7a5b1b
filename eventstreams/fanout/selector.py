"""Which events a client gets, and what of them: `filter=`, `fields=` and `sample=`.

Equal selectors give equal answers, so clients that ask for the same in other words share one.
"""

from __future__ import annotations

from eventstreams.fanout.cel import Program, compile_filter
from eventstreams.fanout.document import Document, Documents
from eventstreams.fanout.projection import Tree, parse_fields, project, tree_of
from eventstreams.fanout.sample import is_sampled, parse_sample
from eventstreams.model.frame import Frame

__all__ = ["Documents", "Selector", "parse_selector"]


class Selector:
    """Immutable; equal where the canonical filter, the fields and the sample are."""

    __slots__ = ("_program", "_tree", "fields", "filter", "sample")

    filter: str | None
    """Canonical text."""
    fields: tuple[str, ...]
    """Sorted paths, none of which covers another; () for whole events."""
    sample: float | None
    """Below 1."""

    def __init__(
        self, program: Program | None, fields: tuple[str, ...], sample: float | None
    ) -> None:
        init = super().__setattr__
        init("filter", None if program is None else program.text)
        init("fields", fields)
        init("sample", sample)
        init("_program", program)
        init("_tree", tree_of(fields))

    _program: Program | None
    _tree: Tree

    def select(self, frame: Frame, documents: Documents) -> bytes | None:
        """The line of JSON to send, or None where this event is not for this client.

        Raises FilterTooCostly.
        """
        document = documents.of(frame)
        if document is None:
            return None
        if self.sample is not None and not is_sampled(document, self.sample):
            return None
        if self._program is not None and not self._program.matches(document):
            return None
        return self._line(document) if self.fields else frame.data

    def _line(self, document: Document) -> bytes | None:
        fields, write = document.writable()
        try:
            return write(project(fields, self._tree))
        except (ValueError, RecursionError):
            return None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a selector does not change: {name}")

    def _key(self) -> tuple[str | None, tuple[str, ...], float | None]:
        return self.filter, self.fields, self.sample

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Selector) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Selector(filter={self.filter!r}, fields={self.fields!r}, sample={self.sample!r})"


def parse_selector(filter_: str | None, fields: str | None, sample: str | None) -> Selector | None:
    """None where nothing is selected. Raises InvalidFilter, InvalidFields, InvalidSample."""
    program = None if filter_ is None else compile_filter(filter_)
    paths = () if fields is None else parse_fields(fields)
    share = None if sample is None else parse_sample(sample)
    if share == 1:
        share = None
    if program is None and not paths and share is None:
        return None
    return Selector(program, paths, share)
