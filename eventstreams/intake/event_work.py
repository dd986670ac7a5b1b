"""Processes single events, in steps that are short enough for the event loop.

Most events are small, and their schemas have simple defaults. Plain functions process these;
generators that yield every few milliseconds process the others.
"""

from __future__ import annotations

from typing import Any, cast

from eventstreams.config.settings import IntakeSettings
from eventstreams.intake import document as events
from eventstreams.intake.document import LARGE_BYTES, EventProblem, Steps
from eventstreams.intake.router import Route
from eventstreams.model.event import Record
from eventstreams.model.frame import span_of


class EventWork:
    """Parses an event, fills in its defaults and makes its record, within the limits."""

    def __init__(self, settings: IntakeSettings, *, lenient: bool, finds_spans: bool) -> None:
        """Set the options. With `finds_spans`, small records get the span of their place."""
        self._finds_spans = finds_spans
        self._settings = settings
        self._lenient = lenient
        self._small_bytes_max = min(
            LARGE_BYTES, settings.event_bytes_max, 2 * settings.event_values_max
        )

    def is_small(self, event: bytes) -> bool:
        """Return whether the event certainly keeps the limits on bytes, values and depth."""
        brackets = event.count(b"{") + event.count(b"[")
        return len(event) <= self._small_bytes_max and brackets <= self._settings.depth_max

    def values_max(self, event: bytes) -> int:
        """Return the maximum number of values that the event can have without being refused."""
        return min(self._settings.event_values_max, len(event) // 2)

    def read_small(self, event: bytes) -> Any:
        """Return the document of a small event. Raises EventProblem."""
        return events.parse(event, lenient=self._lenient)

    def read(self, event: bytes) -> Steps[Any]:
        """Return the document of any event. Raises EventProblem."""
        return events.read(
            event,
            bytes_max=self._settings.event_bytes_max,
            values_max=self._settings.event_values_max,
            depth_max=self._settings.depth_max,
            lenient=self._lenient,
        )

    def fill_bounded(self, route: Route, fields: dict[str, Any]) -> None:
        """Fill in defaults whose number the schema limits. Raises EventProblem."""
        self._refuse_filled(route.schema.defaults.fill(fields))

    def fill(self, route: Route, fields: dict[str, Any], event: bytes) -> Steps[None]:
        """Fill in any defaults. Raises EventProblem."""
        for filled in route.schema.defaults.filling(fields):
            self._refuse_filled(filled)
            if filled or len(event) > LARGE_BYTES:
                yield

    def _refuse_filled(self, values: int) -> None:
        """Raise EventProblem if too many values were filled in."""
        if values > self._settings.event_values_max:
            raise events.too_many_values(self._settings.event_values_max)

    def record(self, route: Route, fields: dict[str, Any], timestamp_ms: int | None) -> Record:
        """Return the record to append. Raises EventProblem."""
        value = events.write(fields)
        if len(value) > self._settings.event_bytes_max:
            found_bytes = f"event has {len(value)} bytes, including the fields that were filled in"
            raise events.too_large(found_bytes, self._settings.event_bytes_max)
        key = None if route.key is None else route.key.of(fields)
        if not self._finds_spans or key is not None or len(value) > LARGE_BYTES:
            return Record(route.topic, value, key, timestamp_ms)
        return Record(route.topic, value, None, timestamp_ms, place_span=span_of(fields, value))


def fields_of(document: Any) -> dict[str, Any]:
    """Return `document` if it is an object. Raises EventProblem if it is not."""
    if not isinstance(document, dict):
        # the text that EventGate uses for any value without fields
        message = "Field(s) $schema were missing from event and could not be extracted."
        raise EventProblem("MissingFieldError", message, message)
    return cast("dict[str, Any]", document)
