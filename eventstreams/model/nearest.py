"""Finds the known name that a misspelled one most likely means, in bounded time."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from heapq import nlargest
from itertools import accumulate, islice

LENGTH_MAX = 80
"""The maximum number of characters of a name that is compared. Longer names match nothing."""
_KNOWN_MAX = 2_000
"""How many known names are considered at all."""
_COMPARED_MAX = 40
"""How many known names are compared closely: those that share the most pieces with the name."""
_CHARACTERS_MAX = 32_000
"""Limits close comparisons: the number of pairs of a character of the name and one of a known
name."""
_PIECE = 3
_PIECES_MAX = 16
"""How many pieces of the name are looked for in each known name."""


def nearest(name: str, known: Collection[str], count: int = 1) -> list[str]:
    """Return up to `count` known names that resemble `name`, the most similar first.

    Case does not matter. The work is bounded, however many names are known.
    """
    if not name.strip() or len(name) > LENGTH_MAX:
        return []
    considered = (each for each in islice(known, _KNOWN_MAX) if len(each) <= LENGTH_MAX)
    folded = {each.casefold(): each for each in considered}
    wanted = name.strip().casefold()
    room = _CHARACTERS_MAX // len(wanted)
    is_little = len(folded) <= _COMPARED_MAX and sum(map(len, folded)) <= room
    candidates = folded if is_little else _within(room, _alike(wanted, folded))
    return [folded[each] for each in difflib.get_close_matches(wanted, candidates, n=count)]


def did_you_mean(name: str, known: Collection[str], count: int = 1) -> str:
    """Return `did you mean a or b?` for the nearest known names, or an empty string."""
    return one_of(nearest(name, known, count))


def one_of(names: Sequence[str]) -> str:
    """Return `did you mean a or b?` for these names, or an empty string if there are none."""
    return f"did you mean {' or '.join(names)}?" if names else ""


def _alike(wanted: str, known: Collection[str]) -> list[str]:
    places = range(max(1, len(wanted) - _PIECE + 1))
    stride = -(-len(places) // _PIECES_MAX)
    pieces = {wanted[at : at + _PIECE] for at in places[::stride]}
    return nlargest(_COMPARED_MAX, known, key=lambda each: sum(piece in each for piece in pieces))


def _within(room: int, names: list[str]) -> list[str]:
    """Return the first names, as many as have this many characters together."""
    ends = accumulate(map(len, names))
    return [name for name, end in zip(names, ends, strict=True) if end <= room]
