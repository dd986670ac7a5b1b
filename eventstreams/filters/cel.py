"""Compiles and evaluates filters, which are CEL expressions over an event, with Google's runtime.

`event` is the event as clients receive it; `stream`, `topic`, `partition`, `offset` and `timestamp`
(that of the record, as a CEL timestamp) say where it comes from. An event does not match if the
expression cannot be evaluated for it (because of a missing field, or an operator that does not take
these types) or if the result is not a bool.
"""

from __future__ import annotations

import importlib
import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

from eventstreams.errors import FiltersUnavailable, InvalidFilter
from eventstreams.filters.cel_check import ZONED, cost_of
from eventstreams.filters.cel_cost import EVALUATION_US_MAX, FilterCost, Refusal
from eventstreams.filters.cel_text import (
    Place,
    UnknownToken,
    canonical,
    offset_in_text,
    offset_of,
    place_of,
    pointed,
    tokenise,
)
from eventstreams.filters.cel_tree import Constant, Node, calls_of, read_tree
from eventstreams.filters.document import Document
from eventstreams.filters.field_paths import Fields, fields_of
from eventstreams.filters.hints import hint_for
from eventstreams.filters.loaded import Loaded
from eventstreams.filters.requirements import Covers, covers_of

if TYPE_CHECKING:
    from cel_expr_python import cel

LENGTH_MAX = 2_048
_PROGRAMS_MAX = 512
_LOADED_BYTES_MAX = 16 * 2**20
"""The memory of filters with covers that are kept ready to evaluate."""
_OFTEN = 100
_OFTEN_S = 60.0
"""A filter that is loaded this often in this time stays loaded, like one without covers."""

_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES_MS = (-62_135_596_799_000, 253_402_300_799_999)
"""The range of CEL timestamps: the years 1 (without its first second) to 9999."""


class Program:
    """A compiled filter. Filters with equal canonical texts share one, through `_compiled`.

    What the runtime needs to evaluate a filter takes about 5 KB, so filters that an index finds,
    and that are therefore evaluated rarely, keep only their serialized form between evaluations.
    One that turns out to be evaluated often stays loaded.
    """

    __slots__ = (
        *("_bool", "_bytes_safe", "_counted_s", "_expression", "_loads", "_serialized"),
        *("comparisons", "conditions", "cost", "covers", "paths", "text"),
    )

    def __init__(
        self,
        text: str,
        expression: cel.Expression,
        cost: FilterCost,
        covers: Covers,
        fields: Fields,
    ) -> None:
        self.text = text
        self.paths, self.comparisons, self.conditions = fields
        """The fields of the event that it names, and what it does with some of them."""
        self.cost = cost
        self.covers = covers
        """Conditions that every event that matches meets; see `requirements`."""
        self._expression = None if covers else expression
        self._serialized = expression.serialize() if covers else b""
        self._loads = 0
        """How many evaluations since `_counted_s` have found the filter not loaded."""
        self._counted_s = 0.0
        self._bool = load_runtime().Type.BOOL
        self._bytes_safe = cost.bytes_safe

    def prepare(self, document: Document) -> None:
        """Prepare the data that the evaluations of this document share."""
        if document.fields is not None and self.cost.scratch_bytes is not None:
            document.shared(_activate, 0)

    def matches(self, document: Document) -> bool:
        """Return whether the filter is true for this event; False if that could take too long."""
        if document.fields is None:
            return False
        if document.size > self._bytes_safe and self.cost.most_us(document) > EVALUATION_US_MAX:
            return False
        activation = self._activation(document)
        if activation is None:
            return False
        try:
            value = (self._expression or self._load()).eval(activation)
            return value.type() == self._bool and value.value() is True
        except (RuntimeError, ValueError, TypeError):
            return False

    def _load(self) -> cel.Expression:
        """Return the runtime's form, and keep it if it has to be made often."""
        kept = _loaded.find(self._serialized)
        if kept is not None:
            return kept
        now_s = time.monotonic()
        if now_s - self._counted_s > _OFTEN_S:
            self._counted_s, self._loads = now_s, 0
        self._loads += 1
        made = _loaded.load(self._serialized)
        if self._loads >= _OFTEN:
            self._expression = made
        return made

    def _activation(self, document: Document) -> cel.Activation | None:
        """Return the event for one evaluation: shared with others, unless this one leaves much in
        the activation's memory, which is freed only with it."""
        scratch_bytes = self.cost.scratch_bytes
        return (
            _activate(document)
            if scratch_bytes is None
            else document.shared(_activate, scratch_bytes)
        )


def compile_filter(text: str) -> Program | None:
    """Return the filter, or None if the text is blank.

    Raises InvalidFilter, whose message points to the mistake, or FiltersUnavailable if the CEL
    runtime is not installed.
    """
    _check_characters(text)
    if not text.strip():
        return None
    try:
        tokens = tokenise(text)
    except UnknownToken as error:
        try:
            _compile(text)  # the runtime's message is better, if it finds the same mistake
        except _Mistake as mistake:
            raise _described(mistake, text, mistake.offset) from None
        raise _invalid("this is not a CEL expression", text, place_of(text, error.offset)) from None
    if not tokens:
        raise _invalid("the expression is empty", text, Place(1, 1))
    try:
        return _compiled(canonical(tokens))
    except _Mistake as mistake:
        raise _described(mistake, text, offset_in_text(tokens, mistake.offset)) from None


class _Mistake(Exception):
    """A mistake in a filter, found in the text that was compiled."""

    def __init__(self, reason: str, offset: int, *, is_from_runtime: bool = False) -> None:
        """`reason` is the message of the runtime if `is_from_runtime`; a hint may explain it."""
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        """Where it is in that text, in code points."""
        self.is_from_runtime = is_from_runtime


@lru_cache(maxsize=_PROGRAMS_MAX)
def _compiled(text: str) -> Program:
    return Program(text, *_check(text))


def _deserialize(serialized: bytes) -> cel.Expression:
    return _environment().deserialize(serialized)


_loaded = Loaded(_deserialize, bytes_max=_LOADED_BYTES_MAX)


def _check(text: str) -> tuple[cel.Expression, FilterCost, Covers, Fields]:
    """Compile a filter and check what it may cost. Raises _Mistake or InvalidFilter."""
    expression = _compile(text)
    tree = read_tree(expression.serialize())
    try:
        cost = cost_of(tree, text)
    except Refusal as refusal:
        raise _Mistake(refusal.reason, _offset_named(text, refusal.offset)) from None
    kinds = load_runtime().Type
    kind = expression.return_type()
    if kind not in (kinds.BOOL, kinds.DYN):
        raise _Mistake(f"the result must be a bool, but is {kind.name().lower()}", 0)
    _check_patterns(tree)
    return expression, cost, covers_of(tree), fields_of(tree)


def _offset_named(text: str, offset: int) -> int:
    """Return the offset; for the opening bracket of a call, that of the function's name."""
    called = re.search(r"\w+\s*$", text[:offset]) if text[offset : offset + 1] == "(" else None
    return called.start() if called else offset


def _compile(text: str) -> cel.Expression:
    """Compile a text. Raises _Mistake or InvalidFilter."""
    try:
        return _environment().compile(text)
    except RuntimeError as error:
        raise _translated(text, str(error)) from None


def _check_patterns(tree: Node) -> None:
    """Try each regular expression, and each time zone, which the runtime must find as well.

    Raises _Mistake.
    """
    for call in calls_of(tree, "matches"):
        _try("topic.matches(stream)", call.arguments[-1])
    for function in ZONED:
        for call in calls_of(tree, function):
            for zone in call.arguments[1:]:
                _try("timestamp.getHours(stream)", zone)


def _try(expression: str, literal: Node) -> None:
    assert isinstance(literal, Constant)
    data = {"topic": "", "stream": literal.text, "timestamp": _EPOCH}
    tried = _tried(expression).eval(_environment().Activation(data))
    if tried.type() == load_runtime().Type.ERROR:
        raise _Mistake(str(tried.value()).partition(": ")[2], literal.offset)


@lru_cache
def _tried(expression: str) -> cel.Expression:
    return _environment().compile(expression)


def _check_characters(text: str) -> None:
    if len(text) > LENGTH_MAX:
        raise InvalidFilter(f"The filter has {len(text)} characters; the limit is {LENGTH_MAX}")
    for i, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            message = f"the character U+{ord(character):04X} is not allowed in a filter"
            raise _invalid(message, text, place_of(text, i))


def _translated(text: str, error: str) -> _Mistake | InvalidFilter:
    """Return the runtime's first error, without its list of all tokens that it would accept."""
    found = _ERROR.search(error)
    if "recursion" in error and (found is None or int(found[1]) < 1):
        return InvalidFilter("The filter is nested too deeply or has too many operators in a row")
    if found is None or int(found[1]) < 1:
        return InvalidFilter(f"The filter is not a valid expression: {error.splitlines()[0]}")
    message = re.sub(r" expecting .*| \(in container ''\)", "", found[3])
    message = message.removesuffix(" [INVALID_ARGUMENT]")
    offset = offset_of(text, Place(int(found[1]), int(found[2])))
    return _Mistake(message, offset, is_from_runtime=True)


def _described(mistake: _Mistake, text: str, offset: int) -> InvalidFilter:
    """Return the error about a mistake that is at `offset` in the client's text."""
    place = place_of(text, offset)
    hint = hint_for(text, mistake.reason, place) if mistake.is_from_runtime else None
    if hint is None:
        return _invalid(mistake.reason, text, place)
    is_of_parser = mistake.reason.startswith("Syntax error")  # which the hint explains
    reason = "" if is_of_parser else f" ({mistake.reason})"
    return _invalid(f"{hint.text}{reason}", text, hint.place)


def _invalid(message: str, text: str, place: Place) -> InvalidFilter:
    where = f"line {place.line}, column {place.column}"
    return InvalidFilter(f"Invalid filter at {where}: {message}\n{pointed(text, place)}")


@lru_cache(maxsize=1)
def _environment() -> cel.Env:
    runtime = load_runtime()
    kinds = runtime.Type
    return runtime.NewEnv(
        variables={
            "event": kinds.Map(kinds.STRING, kinds.DYN),
            "stream": kinds.STRING,
            "topic": kinds.STRING,
            "partition": kinds.INT,
            "offset": kinds.INT,
            "timestamp": kinds.TIMESTAMP,
        }
    )


def _activate(document: Document) -> cel.Activation | None:
    """Return the event for the runtime, or None if the runtime cannot hold it."""
    fields = document.presentable()
    if fields is None:
        return None
    origin = document.origin
    least, most = _TIMES_MS
    moment = timedelta(milliseconds=min(max(origin.timestamp_ms, least), most))
    return _environment().Activation(
        {
            "event": fields,
            "stream": document.stream,
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "timestamp": _EPOCH + moment,
        }
    )


def load_runtime() -> ModuleType:
    """Return the module `cel_expr_python.cel`. Raises FiltersUnavailable where it is missing."""
    try:
        return importlib.import_module("cel_expr_python.cel")
    except ImportError as error:
        raise FiltersUnavailable(
            "filter= is not available, because the package cel-expr-python is not installed "
            "or cannot be loaded; everything else works without it"
        ) from error
