"""The functions that templates may call, modelled on those of swagger-router."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from uuid import UUID, uuid1

from eventstreams.model.timestamp import parse_timestamp
from eventstreams.propagation.matching import MISSING

_UUID_EPOCH_100NS = 0x01B21DD213814000


class TemplateError(Exception):
    """A template has no value for an event. A retry would not help."""


def _default(value: Any, other: Any) -> Any:
    return other if value is MISSING else value


def _merge(first: Any, second: Any) -> Any:
    """Return the fields of both objects; those of the first take precedence."""
    return {**_object("merge", second), **_object("merge", first)}


def _strip(value: Any, names: Any) -> Any:
    left_out = set(_names(names))
    return {key: each for key, each in _object("strip", value).items() if key not in left_out}


def _filter(value: Any, names: Any) -> Any:
    kept = set(_names(names))
    return {key: each for key, each in _object("filter", value).items() if key in kept}


def _date(value: Any, form: Any = "rfc822") -> Any:
    if isinstance(value, bool):
        moment_ms = None
    elif isinstance(value, int | float):
        moment_ms = int(value)
    else:
        moment_ms = parse_timestamp(value) if isinstance(value, str) else None
    if moment_ms is None:
        raise TemplateError(f"date: {_shown(value)} is not a time")
    if form == "timeuuid":
        return str(_uuid_at(moment_ms))
    try:
        moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise TemplateError(f"date: {_shown(value)} is out of range") from error
    if form == "iso":
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03}Z"
    if form == "rfc822":
        return format_datetime(moment)
    raise TemplateError(f"date: {_shown(form)} is not iso, rfc822 or timeuuid")


def _timeuuid() -> Any:
    return str(uuid1())


def _decode(value: Any) -> Any:
    try:
        return unquote_to_bytes(as_text(value)).decode()
    except UnicodeDecodeError as error:
        raise TemplateError(f"decode: {_shown(value)} is not percent-encoded UTF-8") from error


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    "default": (_default, 2, 2),
    "merge": (_merge, 2, 2),
    "strip": (_strip, 2, 2),
    "filter": (_filter, 2, 2),
    "date": (_date, 1, 2),
    "timeuuid": (_timeuuid, 0, 0),
    "decode": (_decode, 1, 1),
}
"""Each name with its function and its least and greatest number of arguments."""


def _object(function: str, value: Any) -> dict[str, Any]:
    if value is MISSING:
        return {}
    if not isinstance(value, dict):
        raise TemplateError(f"{function}: {_shown(value)} is not an object")
    return cast("dict[str, Any]", value)


def _names(value: Any) -> list[str]:
    each = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [as_text(name) for name in each]


def _uuid_at(moment_ms: int) -> UUID:
    """Return a UUID (RFC 9562, version 1) of this time, with the node and clock of this process."""
    ticks = moment_ms * 10_000 + _UUID_EPOCH_100NS
    _, _, _, high, low, node = uuid1().fields
    fields = (ticks & 0xFFFFFFFF, (ticks >> 32) & 0xFFFF, (ticks >> 48) & 0xFFF, high, low, node)
    return UUID(fields=fields, version=1)


def _shown(value: Any) -> str:
    text = "undefined" if value is MISSING else repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def as_text(value: Any) -> str:
    """Return a value as text. Undefined and null are empty; objects become JSON."""
    if isinstance(value, str):
        return value
    if value is MISSING or value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_json_default)


def _json_default(value: Any) -> Any:
    return None if value is MISSING else str(value)
