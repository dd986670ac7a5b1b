"""Adds a stream to the text of a catalogue, whose comments and order stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from eventstreams.config.yaml_file import read_places
from eventstreams.errors import ConfigError

_KEY = re.compile(r"[A-Za-z0-9_.-]+")


def entry_of(name: str, settings: Mapping[str, str], indent: int) -> str:
    """Return the lines that declare a stream."""
    margin = " " * indent
    lines = [f"{margin}{_scalar(name)}:"]
    lines += [f"{margin}  {key}: {_scalar(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def with_stream(path: Path, document: Any, name: str, settings: Mapping[str, str]) -> str:
    """Return the text of the catalogue at `path` with one more stream at the end of its streams.

    `document` is what the file holds. Raises ConfigError if its form does not allow that, with the
    lines to add by hand.
    """
    text = path.read_text(encoding="utf-8")
    text += "" if not text or text.endswith("\n") else "\n"
    is_wrapped = isinstance(document, dict) and "streams" in document
    whole = cast("Any", document)
    streams: Any = whole["streams"] if is_wrapped else whole
    prefix = ("streams",) if is_wrapped else ()
    places = read_places(path)
    if isinstance(streams, dict) and streams:
        names = [str(key) for key in cast("dict[Any, Any]", streams)]
        begins = [places[*prefix, each] for each in names if (*prefix, each) in places]
        columns = {column for _, column in begins}
        if len(columns) == 1 and len({line for line, _ in begins}) == len(begins):
            [column] = columns
            lines = text.splitlines(keepends=True)
            if not lines[begins[0][0] - 1][: column - 1].strip():  # not on the line of a brace
                after = _end_of_streams(places, begins[-1][0], is_wrapped, lines)
                entry = entry_of(name, settings, column - 1)
                return "".join([*lines[:after], entry, *lines[after:]])
    shown = entry_of(name, settings, 2)
    raise ConfigError([f"{path}: add this to its streams by hand:\n{shown}"])


def _end_of_streams(
    places: Mapping[tuple[str | int, ...], tuple[int, int]],
    last_stream: int,
    is_wrapped: bool,
    lines: list[str],
) -> int:
    """Return the number of lines before the next section and the comment that belongs to it; all
    of them if streams come last."""
    others = [line for key, (line, _) in places.items() if len(key) == 1 and line > last_stream]
    if not is_wrapped or not others:
        return len(lines)
    after = min(others) - 1
    while not lines[after - 1].strip() or lines[after - 1].startswith("#"):
        after -= 1
    return after


def _scalar(text: str) -> str:
    """Return text as a YAML scalar; JSON's strings are YAML's."""
    plain = _KEY.fullmatch(text) and not re.fullmatch(r"[0-9._+-]+|true|false|null|yes|no", text)
    return text if plain else json.dumps(text, ensure_ascii=False)
