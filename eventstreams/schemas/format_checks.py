"""Checks the formats in a large document in steps.

The library that validates documents calls a function for each text with a `format`, and returns
only at the end: 34 ms later for 10,000 addresses. For a large document it is therefore called
twice. The first time the functions only note the texts. These are then checked in steps, and the
second time the functions look up the results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping

from eventstreams.schemas.formats import Format

Results = Mapping[str, Mapping[str, bool]]
"""Whether texts are valid, by format and text."""

_STEP_CHARACTERS = 1024
"""Characters of texts that are checked in one step, which takes about 0.1 ms."""
_TEXT_CHARACTERS = 16
"""An empty text takes as much time as this many characters."""


class FormatChecks:
    """The checks of one validator's formats. `functions` are what the library calls."""

    def __init__(self, formats: Mapping[str, Format]) -> None:
        self._formats = formats
        self.functions = {name: self._function(name, check) for name, check in formats.items()}
        self._noted: dict[str, dict[str, bool]] | None = None
        """The texts found so far, while they are only noted."""
        self._results: Results = {}

    def in_steps(self, validate: Callable[[], object]) -> Generator[None, None, Results]:
        """Return the results for the texts that `validate` checks. Each `yield` is a point at which
        other work can proceed."""
        noted: dict[str, dict[str, bool]] = {}
        self._noted = noted
        try:
            validate()
        finally:
            self._noted = None
        size = 0
        for name, results in noted.items():
            check = self._formats[name]
            for text in results:
                results[text] = check(text)
                size += len(text) + _TEXT_CHARACTERS
                if size > _STEP_CHARACTERS:
                    size = 0
                    yield
        return noted

    @contextlib.contextmanager
    def known(self, results: Results) -> Generator[None]:
        """Use these results instead of checking the same texts again. The block must not wait."""
        self._results = results
        try:
            yield
        finally:
            self._results = {}

    def _function(self, name: str, check: Format) -> Format:
        def checked(text: str) -> bool:
            if self._noted is not None:
                self._noted.setdefault(name, {})[text] = True
                return True
            if self._results:
                result = self._results.get(name, {}).get(text)
                if result is not None:
                    return result
            return check(text)

        return checked
