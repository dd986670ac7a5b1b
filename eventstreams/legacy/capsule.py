"""Reads capsules as clients encode them: JSON, percent-encoded, as the whole query of a URL.

A query ends in `;`, which distinguishes a complete capsule from a truncated one.
"""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import msgspec

from eventstreams.intake.document import EventProblem

_AROUND = b"?&;"
"""Characters around a capsule that are not part of it."""
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_KIND = "CapsuleError"


def decode_query(query: bytes, *, bytes_max: int, plus_is_space: bool = False) -> dict[str, Any]:
    """Return the capsule in a query, which may include its `?` and its `;`.

    `plus_is_space` decodes a plus sign as a space, as EventLogging's processor of raw logs does.
    Raises EventProblem.
    """
    if len(query) > bytes_max:
        message = f"the query has {len(query)} bytes; the limit is {bytes_max}"
        raise EventProblem(_KIND, message, f"the query has more than {bytes_max} bytes")
    encoded = query.strip(_AROUND)
    if not encoded:
        raise _problem("the query is empty; it must contain a percent-encoded JSON object")
    text = unquote_to_bytes(encoded.replace(b"+", b" ") if plus_is_space else encoded)
    try:
        return read_capsule(text)
    except EventProblem as problem:
        hint = _hint(encoded)
        if hint is None:
            raise
        raise EventProblem(_KIND, f"{problem.message} ({hint})", problem.rule) from problem


def _hint(encoded: bytes) -> str | None:
    """Return what is wrong with the encoding of a query that contains no JSON, or None."""
    escape = _ESCAPE.search(encoded)
    if escape is None:
        return None
    at = escape.start()
    return f"byte {at} of the query is a % without two hexadecimal digits after it"


def read_capsule(text: bytes) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises EventProblem."""
    try:
        capsule = _JSON.decode(text)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if reason == "Input data was truncated":
            reason = "it ends too early, so the URL was probably cut off"
        raise _problem(f"the capsule is not JSON: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise _problem(f"the capsule cannot be read: {error}") from error
    if not isinstance(capsule, dict):
        raise _problem("the capsule is JSON, but not an object")
    return cast("dict[str, Any]", capsule)


def _problem(message: str) -> EventProblem:
    """Return a problem whose message names places in the capsule but quotes nothing from it."""
    return EventProblem(_KIND, message, message)
