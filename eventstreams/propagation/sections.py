"""Reads the mappings of a rule file option by option, and collects mistakes with their places."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from eventstreams.config.yaml_file import read_places
from eventstreams.errors import ConfigError
from eventstreams.propagation import matching, sampling, template
from eventstreams.propagation.rule import DEDUPLICATIONS
from eventstreams.propagation.template import BadTemplate, Text

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,30}")
_ENV = re.compile(r"\{env\((\w+)(?:,[^)]*)?\)\}")


class Problems:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: list[tuple[KeyPath, str]] = []

    def add(self, path: KeyPath, reason: str) -> None:
        self._found.append((path, reason))

    def raise_all(self) -> None:
        """Raise ConfigError with all problems, in the order of the file, if there are any."""
        if not self._found:
            return
        places = read_places(self._file)
        lines: list[tuple[tuple[int, int], str]] = []
        for path, reason in self._found:
            known = path
            while known not in places and known:
                known = known[:-1]
            line, column = places.get(known, (1, 1))
            name = _dotted(path)
            lines.append(((line, column), f"{self._file}:{line}:{column}: {name}: {reason}"))
        lines.sort(key=lambda each: each[0])
        raise ConfigError(list(dict.fromkeys(text for _, text in lines)))


def _dotted(path: KeyPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{step}"
    return text or "the file"


class Section:
    """A mapping of a file, from which options are taken by name. Options left over are mistakes."""

    def __init__(self, value: Any, path: KeyPath, problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._left: dict[str, Any] = {}
        self._known: set[str] = set()
        if isinstance(value, dict):
            self._left = {str(key): each for key, each in cast("dict[Any, Any]", value).items()}
        else:
            problems.add(path, f"must be a mapping, not {matching.name_of_type(value)}")

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, convert: Callable[[Any], T], default: T) -> T:
        """Return the converted value, or the default if it is missing or invalid.

        `convert` may raise ValueError, PatternError and BadTemplate.
        """
        self._known.add(name)
        if name not in self._left:
            return default
        value = self._left.pop(name)
        try:
            return convert(value)
        except (matching.PatternError, BadTemplate) as error:
            self.problems.add((*self.path, name, *error.path), error.reason)
        except ValueError as error:
            self.problems.add((*self.path, name), str(error))
        return default

    def give(self, name: str) -> Any:
        """Return the unconverted value, or None if it is missing."""
        return self.take(name, lambda value: value, None)

    def end(self) -> None:
        """Report the options that have not been taken."""
        for name in self._left:
            near = difflib.get_close_matches(name, self._known, 1)
            hint = (
                f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self._known))}"
            )
            self.problems.add((*self.path, name), f"unknown option; {hint}")


# Conversions. Each function raises ValueError if the value is of another type or out of range.


def as_text(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be text, not {matching.name_of_type(value)}")
    return value


def as_texts(value: Any) -> tuple[str, ...]:
    listed = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each for each in listed):
        raise ValueError("must be text or a list of texts")
    return tuple(listed)


def as_name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError("must be at most 100 letters, digits, dots, _ and -")
    return value


def as_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {matching.name_of_type(value)}")
    return {str(key): each for key, each in cast("dict[Any, Any]", value).items()}


def as_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {matching.name_of_type(value)}")
    return value


def as_number(value: Any, least: float, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e15:
        raise ValueError(f"must be {wanted}, not {value!r}")
    return float(value)


def as_not_negative(value: Any) -> float:
    return as_number(value, 0, "a number of at least 0")


def as_positive(value: Any) -> float:
    return as_number(value, 1e-3, "a number above 0")


def as_seconds_or_none(value: Any) -> float | None:
    return None if value is None else as_positive(value)


def as_share(value: Any) -> float:
    number = as_not_negative(value)
    if number > 1:
        raise ValueError(f"must be a number from 0 to 1, not {value!r}")
    return number


def as_rate(value: Any) -> float:
    number = as_number(value, sampling.RATE_MIN, f"a number from {sampling.RATE_MIN} to 1")
    return as_share(number)


def as_count_or_zero(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**9:
        raise ValueError(f"must be a whole number of at least 0, not {value!r}")
    return value


def as_count(value: Any) -> int:
    if not as_count_or_zero(value):
        raise ValueError("must be a whole number of at least 1, not 0")
    return cast("int", value)


def as_start(value: Any) -> str:
    if value not in ("latest", "earliest"):
        raise ValueError(f"must be latest or earliest, not {value!r}")
    return cast("str", value)


def as_order(value: Any) -> str:
    if value not in ("sequential", "parallel"):
        raise ValueError(f"must be sequential or parallel, not {value!r}")
    return cast("str", value)


def as_method(value: Any) -> str:
    if not isinstance(value, str) or not _METHOD.fullmatch(value):
        raise ValueError(f"must be an HTTP method such as post, not {value!r}")
    return value.upper()


def as_template_text(value: Any) -> Text | None:
    compiled = template.compile_template(value)
    if not isinstance(compiled, Text) or not value:
        raise ValueError(f"must be text, not {matching.name_of_type(value)}")
    return compiled


def as_deduplications(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return DEDUPLICATIONS if value else frozenset()
    chosen = frozenset(as_texts(value))
    if not chosen <= DEDUPLICATIONS:
        raise ValueError("must be true, false, or a list of id, sha1 and root")
    return chosen


def as_truth(value: Any) -> bool:
    """Return a boolean, which may be given as an environment variable: `{env(NAME)}`."""
    found = _ENV.fullmatch(value) if isinstance(value, str) else None
    return bool(os.environ.get(found[1])) if found else bool(value)
