"""What became of each posted event, and how that is told: the bodies of EventGate's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from eventstreams.schemas.validation import ValidationProblem


@dataclass(frozen=True, slots=True)
class Accepted:
    """Durable in the log."""

    index: int
    """In the request, from 0."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Refused, and always will be."""

    index: int
    event: bytes
    """Its JSON."""
    message: str
    problems: Sequence[ValidationProblem] = ()
    """Under its schema; none where it did not come as far as that."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Not known to be in the log. It may be there where `retryable`: a log that does not answer
    may have written it."""

    index: int
    event: bytes
    message: str
    retryable: bool


Outcome = Accepted | Invalid | Failed


class Tally(NamedTuple):
    accepted: int
    invalid: list[Invalid]
    failed: list[Failed]


def tally(outcomes: Sequence[Outcome]) -> Tally:
    """Each list in the order of the request."""
    invalid = [outcome for outcome in outcomes if isinstance(outcome, Invalid)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    return Tally(len(outcomes) - len(invalid) - len(failed), invalid, failed)


def body(invalid: Sequence[Invalid], failed: Sequence[Failed] | None, *, plain: bool) -> bytes:
    """The JSON of a 207, 400 or 500. `plain` elements have EventGate's own keys alone."""
    document = {"invalid": [_element(each, plain=plain) for each in invalid]}
    if failed is not None:
        document["error"] = [_element(each, plain=plain) for each in failed]
    return msgspec.json.encode(document)


def _element(outcome: Invalid | Failed, *, plain: bool) -> dict[str, Any]:
    element: dict[str, Any] = {
        "status": "invalid" if isinstance(outcome, Invalid) else "error",
        "event": msgspec.Raw(outcome.event),
    }
    if isinstance(outcome, Failed):
        retryable = {} if plain else {"retryable": outcome.retryable}
        element["context"] = {"message": outcome.message, **retryable}
    else:
        element["context"] = {
            "errors": [problem.as_dict() for problem in outcome.problems],
            "errorsText": outcome.message,
        }
    if not plain:
        element["index"] = outcome.index
    return element
