"""Looks up the schema of a field by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_META: Mapping[str, str] = {
    "stream": "{type: string, minLength: 1}",
    "id": "{type: string}",
    "dt": "{type: string, format: date-time, maxLength: 128}",
}
"""The fields of `meta` that the intake reads or fills in, each with the YAML lines that declare it.
"""


def field_schema(schema: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any] | None:
    """Return the schema of a field, through `properties` and `allOf`; None if not declared."""
    if not path:
        return schema
    properties: Any = schema.get("properties")
    declared = cast("dict[str, Any]", properties).get(path[0]) if _is_dict(properties) else None
    if _is_dict(declared):
        found = field_schema(cast("dict[str, Any]", declared), path[1:])
        if found is not None:
            return found
    parts: Any = schema.get("allOf")
    for part in cast("list[Any]", parts) if isinstance(parts, list) else ():
        if _is_dict(part) and (found := field_schema(cast("dict[str, Any]", part), path)):
            return found
    return None


def meta_advice(schema: Mapping[str, Any]) -> str | None:
    """Return advice on declaring meta.stream, meta.id and meta.dt, with the lines to add.

    Returns None if all are declared. `schema` must not contain references.
    """
    missing = [name for name in _META if field_schema(schema, ("meta", name)) is None]
    if not missing:
        return None
    names = ", ".join(f"meta.{name}" for name in missing)
    lines = "\n".join(f"      {name}: {_META[name]}" for name in missing)
    return (
        f"does not declare {names}; only declared fields are filled in. Add under properties:\n"
        f"  meta:\n    type: object\n    properties:\n{lines}"
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
