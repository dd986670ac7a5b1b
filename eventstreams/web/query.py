"""Parses the query parameters of requests, with the same rules for every route.

Names and values are percent-decoded as HTML forms write them; bytes that are not UTF-8 become
U+FFFD. A parameter whose value is blank counts as absent, and one that is read as a single value
must not be repeated, because a proxy might use the other one. A path that has parameters rejects
all others, except those that libraries and links add (`IGNORED`). A path without parameters, such
as `/v2/streams/activity`, ignores them. Only `/v2/limits` rejects them, because it always describes
the client that sends the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from urllib.parse import parse_qsl

from starlette.types import Scope

from eventstreams.errors import InvalidParameter
from eventstreams.model.nearest import LENGTH_MAX, did_you_mean

PARAMETERS_MAX = 100
"""The maximum number of parameters of a query. Each takes a few microseconds."""
IGNORED = re.compile(r"_.*|evs_.*|utm_.*|r", re.ASCII)
"""Names that every path accepts and ignores: `_` and `r` defeat caches, `evs_…` is sent by
EventSource libraries for old browsers, and `utm_…` is added to links."""
_DIGITS = re.compile(r"\d+", re.ASCII)


class Query:
    def __init__(self, scope: Scope) -> None:
        text: str = scope.get("query_string", b"").decode("latin-1")
        self.pairs = parse_qsl(text, keep_blank_values=True)
        """(name, value) in order, blank values included."""
        self._values: dict[str, list[str]] = {}
        for name, value in self.pairs:
            if value.strip():
                self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        """Return all values of the parameter, in order."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """Return the value, or None if the parameter is absent.

        Raises InvalidParameter if it is repeated.
        """
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given more than once")
        return values[0]

    def choice(self, name: str, *choices: str) -> str | None:
        """Return the value, or None. Raises InvalidParameter if it is not one of the choices."""
        value = self.one(name)
        if value is not None and value not in choices:
            raise InvalidParameter(f"{name}={value} is not one of: {', '.join(choices)}")
        return value

    def whole(self, name: str, unit: str, *, least: int, digits_max: int) -> int | None:
        """Return the number, or None. Raises InvalidParameter unless it is whole and >= `least`."""
        value = self.one(name)
        if value is None:
            return None
        digits = value.strip()
        is_whole = _DIGITS.fullmatch(digits) and len(digits) <= digits_max
        if not is_whole or int(digits) < least:
            raise InvalidParameter(
                f"{name}={value} is not a number of {unit}: use a whole number of at least {least}"
            )
        return int(digits)

    def expect(
        self, known: Collection[str], accepts: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Raise InvalidParameter for the first name that this path does not have.

        Accepted are the `known` names, `IGNORED` ones, and other spellings for which `accepts`
        returns True.
        """
        for name, _ in self.pairs:
            if name not in known and not IGNORED.fullmatch(name) and not accepts(name):
                shown = name if len(name) <= LENGTH_MAX else f"{name[:LENGTH_MAX]}…"
                hint = did_you_mean(name, known) or f"it takes {', '.join(known) or 'none'}"
                raise InvalidParameter(f"This path has no parameter {shown!r}; {hint}")
