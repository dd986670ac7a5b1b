"""Makes the key of a record: a JSON object of the fields that `message_key_fields` names.

Records with equal keys go to the same partition, so the bytes must equal those of EventGate, even
if a field is null or a path leads into a list. Paths use the syntax of lodash: `page.id`,
`tags[0]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from eventstreams.intake import document as events
from eventstreams.intake.document import EventProblem

_INDEX = re.compile(r"0|[1-9][0-9]{0,3}", re.ASCII)
_STEP = re.compile(r"\[([^\[\]]*)\]|([^.\[\]]+)|(?:^|\.)(?=\.|$)")
_MISSING = object()


class MessageKey:
    def __init__(self, fields: Mapping[str, str]) -> None:
        """Compile `fields`, which maps each path in the key to a path in the event."""
        self._fields = [(_steps(there), _steps(source), source) for there, source in fields.items()]

    def of(self, document: dict[str, Any]) -> bytes:
        """Return the key. Raises EventProblem if a field is missing; null counts as present."""
        key: dict[str, Any] = {}
        missing: list[str] = []
        for place, steps, source in self._fields:
            value = _get(document, steps, source)
            if value is _MISSING:
                missing.append(source)
            else:
                _set(key, place, value)
        if missing:
            message = f"Field(s) {','.join(missing)} of the message key were missing from event"
            raise EventProblem("MissingFieldError", message, message)
        return events.write(key)


def _steps(path: str) -> list[str]:
    return [match[1] if match[1] is not None else match[2] or "" for match in _STEP.finditer(path)]


def _get(document: dict[str, Any], steps: Sequence[str], source: str) -> Any:
    if source in document:  # a field whose name contains dots
        return document[source]
    value: Any = document
    for step in steps:
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(step, _MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(step):
            items = cast("list[Any]", value)
            value = items[int(step)] if int(step) < len(items) else _MISSING
        else:
            return _MISSING
    return value


def _set(key: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    """Set a value in the key. A step that looks like an index creates a list, unless the parent is
    already an object.
    """
    parent: Any = key
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if following is None:
            made: Any = value
        else:
            made = _child(parent, step)
            if not isinstance(made, dict | list):
                made = cast("Any", [] if _INDEX.fullmatch(following) else {})
        if isinstance(parent, list):
            items = cast("list[Any]", parent)
            if not _INDEX.fullmatch(step):
                return  # JSON leaves it out of a list
            items.extend([None] * (int(step) + 1 - len(items)))
            items[int(step)] = made
        else:
            parent[step] = made
        parent = cast("Any", made)


def _child(parent: Any, step: str) -> Any:
    if isinstance(parent, dict):
        return cast("dict[str, Any]", parent).get(step)
    items = cast("list[Any]", parent)
    is_there = _INDEX.fullmatch(step) is not None and int(step) < len(items)
    return items[int(step)] if is_there else None
