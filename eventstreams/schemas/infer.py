"""Infers the schema of a stream from sample events.

What all samples have is required. Strings that all have the form of a time, a date, a UUID or a web
address get that format. Objects with many keys, none of which all samples share, are maps.

A number gets the type `number`, even if all samples are whole: later events may have decimals, and
a published `integer` cannot become a `number`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from eventstreams.schemas.formats import FORMATS

DEPTH_MAX = 32
"""How deeply samples may nest; what is below is accepted as it is."""
_LENGTHS_MAX = {"date-time": 128, "date": 32, "uuid": 64, "uri": 8192}
"""The formats that are recognized, and how long such a text may be: testing one takes time."""
_MAP_KEYS_MIN = 20
_TYPES = {bool: "boolean", int: "number", float: "number", str: "string"}
_ORDER = ("object", "array", "string", "number", "boolean", "null")
META: Mapping[str, Any] = {
    "stream": {"type": "string", "minLength": 1, "description": "Name of the stream"},
    "id": {"type": "string", "description": "Unique id of the event"},
    "dt": {
        "type": "string",
        "format": "date-time",
        "maxLength": 128,
        "description": "When the event was received, in UTC (ISO 8601)",
    },
}
"""The fields of `meta` that the intake reads or fills in."""


def infer_event_schema(
    samples: Sequence[Mapping[str, Any]], *, title: str, description: str
) -> dict[str, Any]:
    """Return version 1.0.0 of the schema of these events."""
    inferred = infer(samples)
    properties: dict[str, Any] = inferred.get("properties", {})
    own = {key: value for key, value in properties.items() if key not in ("$schema", "meta")}
    meta: dict[str, Any] = properties.get("meta", {}).get("properties", {})
    required = [name for name in inferred.get("required", []) if name in own]
    schema = {
        "title": title,
        "description": description,
        "$id": f"/{title}/1.0.0",
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "required": ["$schema", "meta", *required],
        "properties": {
            "$schema": {
                "type": "string",
                "description": f"URI of the schema of this event, for example /{title}/1.0.0",
            },
            "meta": {
                "type": "object",
                "required": ["dt", "stream"],
                "properties": {**meta, **META},
            },
            **own,
        },
    }
    if "properties" not in inferred and "additionalProperties" in inferred:  # the event is a map
        schema["additionalProperties"] = inferred["additionalProperties"]
    return schema


def infer(values: Sequence[Any], depth: int = 0) -> dict[str, Any]:
    """Return a schema that accepts all of these values; {} if there are none."""
    if depth >= DEPTH_MAX:
        return {}
    objects = [cast("dict[str, Any]", value) for value in values if isinstance(value, Mapping)]
    arrays = [cast("list[Any]", value) for value in values if isinstance(value, list)]
    scalars = [value for value in values if not isinstance(value, Mapping | list)]
    types = {_TYPES.get(cast("type[Any]", type(value)), "null") for value in scalars}
    types |= {"object"} if objects else set()
    types |= {"array"} if arrays else set()
    schema: dict[str, Any] = {}
    if types:
        named = [name for name in _ORDER if name in types]
        schema["type"] = named[0] if len(named) == 1 else named
    texts = [value for value in scalars if isinstance(value, str)]
    if texts and (form := _format(texts)) is not None:
        schema |= {"format": form, "maxLength": _LENGTHS_MAX[form]}
    if objects:
        schema |= _object(objects, depth)
    if arrays and (items := infer([item for array in arrays for item in array], depth + 1)):
        schema["items"] = items
    return schema


def _object(objects: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    names = list(dict.fromkeys(name for each in objects for name in each))
    required = [name for name in names if all(name in each for each in objects)]
    if len(names) >= _MAP_KEYS_MIN and not required:
        values = [value for each in objects for value in each.values()]
        return {"additionalProperties": infer(values, depth + 1)}
    properties = {
        name: infer([each[name] for each in objects if name in each], depth + 1) for name in names
    }
    return {"properties": properties, **({"required": required} if required else {})}


def _format(texts: Sequence[str]) -> str | None:
    for name, most in _LENGTHS_MAX.items():
        is_web = name != "uri" or all(text.startswith(("http://", "https://")) for text in texts)
        if is_web and all(len(text) <= most and FORMATS[name](text) for text in texts):
            return name
    return None
