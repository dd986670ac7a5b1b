"""An event that its schema does not take."""

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
        """Only places in the schema: what is declared there, and not what the event has there."""
        rules = dict.fromkeys(f"{each.schema_path} is not met" for each in self.problems)
        return ", ".join(rules)
