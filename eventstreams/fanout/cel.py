"""Filters: expressions in CEL over an event, compiled once and evaluated by Google's runtime.

`event` is the event as clients get it; `stream`, `topic`, `partition`, `offset` and `timestamp`
(the record's, a CEL timestamp) say where it comes from. What can't be decided (a field that is not
there, a comparison of unlike types, a result that is no bool) does not match.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from eventstreams.errors import InvalidFilter
from eventstreams.fanout.cel_check import ZONED, cost_of
from eventstreams.fanout.cel_cost import EVALUATION_US_MAX, FilterCost, Refusal
from eventstreams.fanout.cel_runtime import load_runtime
from eventstreams.fanout.cel_text import (
    Place,
    UnknownToken,
    canonical,
    place_of,
    pointed,
    tokenise,
)
from eventstreams.fanout.cel_tree import Constant, Node, calls_of, read_tree
from eventstreams.fanout.document import Document

if TYPE_CHECKING:
    from cel_expr_python import cel

LENGTH_MAX = 2_048
_PROGRAMS_MAX = 512

_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES_MS = (-62_135_596_799_000, 253_402_300_799_999)
"""What a CEL timestamp can be: the years 1 (but its first second) to 9999."""


class Program:
    """A filter that can be asked about events. Equal canonical texts share one, by `_compiled`."""

    __slots__ = ("_bool", "_bytes_safe", "_expression", "cost", "text")

    def __init__(self, text: str, expression: cel.Expression, cost: FilterCost) -> None:
        self.text = text
        self.cost = cost
        self._expression = expression
        self._bool = load_runtime().Type.BOOL
        self._bytes_safe = cost.bytes_safe

    def matches(self, document: Document) -> bool:
        """Whether it is true for this event. False where finding out could take too long."""
        if document.fields is None:
            return False
        if document.size > self._bytes_safe and self.cost.most_us(document) > EVALUATION_US_MAX:
            return False
        activation = self._activation(document)
        if activation is None:
            return False
        try:
            value = self._expression.eval(activation)
            return value.type() == self._bool and value.value() is True
        except (RuntimeError, ValueError, TypeError):
            return False

    def _activation(self, document: Document) -> cel.Activation | None:
        """What an evaluation leaves in memory stays with the activation, so few are shared long."""
        scratch_bytes = self.cost.scratch_bytes
        return (
            _activate(document)
            if scratch_bytes is None
            else document.shared(_activate, scratch_bytes)
        )


def compile_filter(text: str) -> Program | None:
    """Return the filter, or None where the text is blank.

    Raises InvalidFilter, which points to what is wrong, and FiltersUnavailable where the CEL
    runtime is not installed.
    """
    _check_characters(text)
    if not text.strip():
        return None
    try:
        tokens = tokenise(text)
    except UnknownToken as error:
        _compile(text)  # says it better, if it finds the same
        raise _invalid("this is not CEL", text, place_of(text, error.offset)) from None
    if not tokens:
        raise _invalid("there is no expression", text, Place(1, 1))
    try:
        return _compiled(canonical(tokens))
    except InvalidFilter:
        _check(text)  # again, for the places in the text as it was written
        raise


@lru_cache(maxsize=_PROGRAMS_MAX)
def _compiled(text: str) -> Program:
    return Program(text, *_check(text))


def _check(text: str) -> tuple[cel.Expression, FilterCost]:
    """Raises InvalidFilter."""
    expression = _compile(text)
    tree = read_tree(expression.serialize())
    try:
        cost = cost_of(tree, text)
    except Refusal as refusal:
        raise _invalid(refusal.reason, text, _place_named(text, refusal.offset)) from None
    kinds = load_runtime().Type
    kind = expression.return_type()
    if kind not in (kinds.BOOL, kinds.DYN):
        message = f"the result must be a bool, and is {kind.name().lower()}"
        raise _invalid(message, text, place_of(text, tokenise(text)[0].offset))
    _check_patterns(text, tree)
    return expression, cost


def _place_named(text: str, offset: int) -> Place:
    """The place; that of the name where it is the bracket of a call."""
    called = re.search(r"\w+\s*$", text[:offset]) if text[offset : offset + 1] == "(" else None
    return place_of(text, called.start() if called else offset)


def _compile(text: str) -> cel.Expression:
    try:
        return _environment().compile(text)
    except RuntimeError as error:
        raise _translated(text, str(error)) from None


def _check_patterns(text: str, tree: Node) -> None:
    """Tries each regular expression, and each time zone: it is installed where the runtime looks.

    Raises InvalidFilter.
    """
    for call in calls_of(tree, "matches"):
        _try("topic.matches(stream)", call.arguments[-1], text)
    for function in ZONED:
        for call in calls_of(tree, function):
            for zone in call.arguments[1:]:
                _try("timestamp.getHours(stream)", zone, text)


def _try(expression: str, literal: Node, text: str) -> None:
    assert isinstance(literal, Constant)
    data = {"topic": "", "stream": literal.text, "timestamp": _EPOCH}
    tried = _tried(expression).eval(_environment().Activation(data))
    if tried.type() == load_runtime().Type.ERROR:
        message = str(tried.value()).partition(": ")[2]
        raise _invalid(message, text, place_of(text, literal.offset))


@lru_cache
def _tried(expression: str) -> cel.Expression:
    return _environment().compile(expression)


def _check_characters(text: str) -> None:
    if len(text) > LENGTH_MAX:
        raise InvalidFilter(
            f"The filter has {len(text)} characters, and may have {LENGTH_MAX} at most"
        )
    for i, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            message = f"the character U+{ord(character):04X} can't be in a filter"
            raise _invalid(message, text, place_of(text, i))


def _translated(text: str, error: str) -> InvalidFilter:
    """The runtime's first complaint, without the list of all the tokens it would have liked."""
    found = _ERROR.search(error)
    if "recursion" in error and (found is None or int(found[1]) < 1):
        return InvalidFilter("The filter is nested too deeply, or has too many operators in a row")
    if found is None or int(found[1]) < 1:
        return InvalidFilter(f"The filter is no valid expression: {error.splitlines()[0]}")
    message = re.sub(r" expecting .*| \(in container ''\)", "", found[3])
    message = message.removesuffix(" [INVALID_ARGUMENT]")
    return _invalid(message, text, Place(int(found[1]), int(found[2])))


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
    """None where the runtime can't hold the event."""
    fields = document.presentable()
    if fields is None:
        return None
    meta: Any = fields.get("meta")
    stream: Any = cast("dict[str, Any]", meta).get("stream") if isinstance(meta, dict) else None
    origin = document.origin
    least, most = _TIMES_MS
    moment = timedelta(milliseconds=min(max(origin.timestamp_ms, least), most))
    return _environment().Activation(
        {
            "event": fields,
            "stream": stream if isinstance(stream, str) else "",
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "timestamp": _EPOCH + moment,
        }
    )
