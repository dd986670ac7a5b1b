"""What the intake does with one event between two looks at the clock.

Most events are small, of a schema with simple defaults. They take the short functions here; others
take the generators, which yield after a few milliseconds at most.
"""

from __future__ import annotations

from typing import Any, cast

from eventstreams.intake import document as events
from eventstreams.intake.document import LARGE_BYTES, EventProblem, Steps
from eventstreams.intake.gate import Route
from eventstreams.model.event import Record
from eventstreams.settings import IntakeSettings


class EventWork:
    """Reads an event, fills in its defaults and makes its record, within the limits."""

    def __init__(self, settings: IntakeSettings, *, lenient: bool) -> None:
        self._settings = settings
        self._lenient = lenient
        self._small_bytes_max = min(
            LARGE_BYTES, settings.event_bytes_max, 2 * settings.event_values_max
        )

    def is_small(self, event: bytes) -> bool:
        """Whether the event certainly keeps the limits on bytes, values and depth."""
        brackets = event.count(b"{") + event.count(b"[")
        return len(event) <= self._small_bytes_max and brackets <= self._settings.depth_max

    def read_small(self, event: bytes) -> Any:
        """Raises EventProblem."""
        return events.parse(event, lenient=self._lenient)

    def read(self, event: bytes) -> Steps[Any]:
        """Raises EventProblem."""
        return events.read(
            event,
            bytes_max=self._settings.event_bytes_max,
            values_max=self._settings.event_values_max,
            depth_max=self._settings.depth_max,
            lenient=self._lenient,
        )

    def fill_bounded(self, route: Route, fields: dict[str, Any]) -> None:
        """Fill in defaults that are bounded by the schema. Raises EventProblem."""
        self._refuse_filled(route.schema.defaults.fill(fields))

    def fill(self, route: Route, fields: dict[str, Any], event: bytes) -> Steps[None]:
        """Fill in any defaults. Raises EventProblem."""
        for filled in route.schema.defaults.filling(fields):
            self._refuse_filled(filled)
            if filled or len(event) > LARGE_BYTES:
                yield

    def _refuse_filled(self, values: int) -> None:
        """Raises EventProblem where too many values were filled in."""
        if values > self._settings.event_values_max:
            raise events.too_many_values(self._settings.event_values_max)

    def record(self, route: Route, fields: dict[str, Any], timestamp_ms: int | None) -> Record:
        """Raises EventProblem."""
        value = events.write(fields)
        if len(value) > self._settings.event_bytes_max:
            found_bytes = f"event has {len(value)} bytes with what is filled in"
            raise events.too_large(found_bytes, self._settings.event_bytes_max)
        key = None if route.key is None else route.key.of(fields)
        return Record(route.topic, value, key, timestamp_ms)


def fields_of(document: Any) -> dict[str, Any]:
    """Raises EventProblem."""
    if not isinstance(document, dict):
        # upstream's words for whatever has no fields
        message = "Field(s) $schema were missing from event and could not be extracted."
        raise EventProblem("MissingFieldError", message, message)
    return cast("dict[str, Any]", document)
