"""Defines the error for an event that its schema does not accept."""

from __future__ import annotations

from collections.abc import Sequence

from eventstreams.intake.document import EventProblem
from eventstreams.schemas.validation import ValidationProblem, errors_text


class Violation(EventProblem):
    def __init__(self, problems: Sequence[ValidationProblem]) -> None:
        super().__init__("ValidationError", errors_text(problems), "")
        self.problems = problems

    @property
    def rule(self) -> str:
        """Return the violated schema paths, without any value of the event."""
        rules = dict.fromkeys(f"{each.schema_path} is not met" for each in self.problems)
        return ", ".join(rules)
