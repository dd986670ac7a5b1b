"""Filters: expressions in CEL over an event, compiled once and evaluated by Google's runtime.

`event` is the event as clients get it; `stream`, `topic`, `partition`, `offset` and `timestamp`
(the record's, a CEL timestamp) say where it comes from. What can't be decided (a field that is not
there, a comparison of unlike types, a result that is no bool) does not match.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from eventstreams.errors import FilterTooCostly, InvalidFilter
from eventstreams.fanout.cel_limits import (
    PATTERNS_MAX,
    Traits,
    find_refusal,
    pattern_cost,
    patterns,
    traits_of,
)
from eventstreams.fanout.cel_runtime import load_runtime
from eventstreams.fanout.cel_text import (
    Place,
    Token,
    UnknownToken,
    canonical,
    place_of,
    pointed,
    tokenise,
)
from eventstreams.fanout.document import Document, Origin

if TYPE_CHECKING:
    from cel_expr_python import cel

LENGTH_MAX = 2_048
STRIKES_MAX = 3
"""Events in a row that cost too much before the filter is given up."""
EVALUATION_S_MAX = 0.1
"""Far beyond what an ordinary filter takes, which is microseconds."""
_CONVERSION_S = 1e-7
"""Added for each byte of the event, because the first to look at it has it converted."""
LOOPED_BYTES_MAX = 64 * 2**10
"""Size of an event that may be looked at whole, 10,000 times."""
_PROGRAMS_MAX = 512

_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES_MS = (-62_135_596_799_000, 253_402_300_799_999)
"""What a CEL timestamp can be: the years 1 (but its first second) to 9999."""


class Program:
    """A filter that can be asked about events. Equal canonical texts share one, by `compiled`."""

    __slots__ = ("_bool", "_expression", "_strikes", "_struck", "_traits", "text")

    def __init__(self, text: str, expression: cel.Expression, traits: Traits) -> None:
        self.text = text
        self._expression = expression
        self._traits = traits
        self._bool = load_runtime().Type.BOOL
        self._strikes = 0
        self._struck: Origin | None = None

    def matches(self, document: Document) -> bool:
        """Raises FilterTooCostly where several events in a row have cost too much."""
        if document.fields is None:
            return False
        if self._traits.loops_over_event and document.size > LOOPED_BYTES_MAX:
            return self._strike(document.origin)
        activation = self._activation(document)
        if activation is None:
            return False
        began = time.perf_counter()
        try:
            value = self._expression.eval(activation)
            found = value.type() == self._bool and value.value() is True
        except (RuntimeError, ValueError, TypeError) as error:
            if "budget exceeded" in str(error):
                return self._strike(document.origin)
            return False
        if time.perf_counter() - began > EVALUATION_S_MAX + document.size * _CONVERSION_S:
            self._strike(document.origin)
        else:
            self._strikes = 0
            self._struck = None
        return found

    def _strike(self, origin: Origin) -> bool:
        """Counts each event once, however many subscriptions look at it."""
        if origin != self._struck:
            self._struck = origin
            self._strikes += 1
        if self._strikes >= STRIKES_MAX:
            raise FilterTooCostly(
                "The filter takes too much work: it went through its budget on "
                f"{STRIKES_MAX} events in a row: {self.text}"
            )
        return False

    def _activation(self, document: Document) -> cel.Activation | None:
        """What an evaluation leaves in memory stays with the activation, so few are shared long."""
        if self._traits.heavy:
            return _activate(document)
        return document.shared(_activate, self._traits.scratch_bytes)


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
        _check(text, tokens)  # again, for the places in the text as it was written
        raise


@lru_cache(maxsize=_PROGRAMS_MAX)
def _compiled(text: str) -> Program:
    tokens = tokenise(text)
    return Program(text, _check(text, tokens), traits_of(tokens))


def _check(text: str, tokens: list[Token]) -> cel.Expression:
    """Raises InvalidFilter."""
    expression = _compile(text)
    refusal = find_refusal(tokens)
    if refusal is not None:
        raise _invalid(refusal.reason, text, place_of(text, refusal.offset))
    kinds = load_runtime().Type
    kind = expression.return_type()
    if kind not in (kinds.BOOL, kinds.DYN):
        message = f"the result must be a bool, and is {kind.name().lower()}"
        raise _invalid(message, text, place_of(text, tokens[0].offset))
    _check_patterns(text, tokens)
    return expression


def _compile(text: str) -> cel.Expression:
    try:
        return _environment().compile(text)
    except RuntimeError as error:
        raise _translated(text, str(error)) from None


def _check_patterns(text: str, tokens: list[Token]) -> None:
    cost = 0
    for pattern in patterns(tokens):
        literal = _environment().compile(pattern.text).eval().value()
        assert isinstance(literal, str)
        cost += pattern_cost(literal)
        place = place_of(text, pattern.offset)
        if cost > PATTERNS_MAX:
            raise _invalid("the regular expressions are too large", text, place)
        tried = _environment().compile(f'"".matches({pattern.text})').eval()
        if tried.type() == load_runtime().Type.ERROR:
            message = str(tried.value()).partition(": ")[2]
            raise _invalid(message, text, place)


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
