"""Splitting large bodies and measuring large events is exact, and done in short steps."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.errors import BadBody, BodyTooLarge
from eventstreams.intake import scanning
from eventstreams.intake.document import EventProblem, read, split
from eventstreams.model.steps import finished
from tests.support.effort import slowness

TEXTS = st.text(max_size=20) | st.sampled_from(
    ["\\", '"', "],[", '\\"', "\\\\", '\\\\"', "{", "}, {", ",", "x" * 40]
)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
SIZES = st.sampled_from([2, 3, 7, 16, 50])
MANY = 10**9
MB = 2**20


def _split(body: bytes, events_max: int = MANY) -> list[bytes]:
    steps = split(body, events_max=events_max, event_bytes_max=MB, lenient=False)
    found: list[bytes] = finished(steps)
    return found


@given(
    values=st.lists(VALUES, min_size=1, max_size=6),
    ascii_=st.booleans(),
    indent=st.sampled_from([None, 1]),
    sizes=st.tuples(SIZES, SIZES),
)
@example(values=["\\"], ascii_=True, indent=None, sizes=(2, 2))
def test_the_parts_of_a_list_have_its_elements(
    values: list[Any], ascii_: bool, indent: int | None, sizes: tuple[int, int]
) -> None:
    body = json.dumps(values, ensure_ascii=ascii_, indent=indent).encode("utf-8", "surrogatepass")
    cut = scanning.parts(body, slice_bytes=sizes[0], part_bytes=sizes[1])
    parts = [json.loads(part) for part in cut if part is not None]
    assert [element for part in parts for element in part] == values


@given(st.binary(max_size=12).map(lambda text: b"[" + text), SIZES, SIZES)
@example(b"[1,]", 2, 2)
@example(b"[1]]", 2, 2)
@example(b"[,1]", 2, 2)
@example(b'["a\\]', 2, 2)
def test_a_part_of_an_invalid_list_is_invalid(body: bytes, slice_: int, part_bytes: int) -> None:
    cut = scanning.parts(body, slice_bytes=slice_, part_bytes=part_bytes)
    parts = [part for part in cut if part is not None]
    assert _is_json(body) == (
        all(map(_is_json, parts)) and (len(parts) == 1 or all(map(json.loads, parts)))
    )


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except ValueError:
        return False
    return True


@given(VALUES, SIZES)
def test_the_shape_is_that_of_the_document(value: Any, slice_bytes: int) -> None:
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    shape = finished(scanning.shape(text, MANY, MANY, slice_bytes=slice_bytes))
    assert shape[0] >= _count(value)
    assert shape[1] >= _depth(value)
    values, depth = _exact_shape(text, slice_bytes)
    assert depth == _depth(value)
    cut_in_two = text.count(b"[]") + text.count(b"{}")  # each counts as two values
    assert _count(value) <= values <= _count(value) + cut_in_two


def _exact_shape(text: bytes, slice_bytes: int) -> tuple[int, int]:
    """Text whose many brackets must be examined."""
    padded = b'["%b",%b]' % (b"[" * 100, text)
    values, depth = finished(scanning.shape(padded, MANY, 99, slice_bytes=slice_bytes))
    return values - 2, depth - 1


def _count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(_count, inner)) if isinstance(value, dict | list) else 1


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, dict | list) else 0


def _repeated(piece: bytes, size: int = 4 * MB) -> bytes:
    return b"[" + (piece * (size // len(piece)))[:-1] + b"]"


HOSTILE = {
    "ones": _repeated(b"1,"),
    "lists": _repeated(b"[],"),
    "objects": _repeated(b'{"a":1},'),
    "halves of pairs": _repeated(b'"\\ud800",'),
    "one list": b"[" + _repeated(b'"",')[:-2] + b"]",
    "one of lists": b'{"a":' + _repeated(b"[],")[:-10] + b"}",
    "open": b"[" * (4 * MB),
    "a text": b'["' + b"x" * (4 * MB - 4) + b'"]',
    "quotes": b'["' + b'\\"' * (2 * MB - 4) + b'"]',
    "backslashes": b'["' + b"\\" * (4 * MB - 4) + b'"]',
    "spaces": b"[" + b" " * (4 * MB - 4) + b"1]",
    "spaces around": b" " * (2 * MB) + b"[1]" + b" " * (2 * MB - 3),
    "not ASCII": b'["' + "é€".encode() * (MB // 2) + b'"]',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_splitting_is_done_in_short_steps(name: str) -> None:
    tries_s: list[float] = []
    for _ in range(15):  # what else the machine does may make any of them longer
        before = slowness()
        tries_s.append(_longest_s(HOSTILE[name]) / max(before, slowness()))
        if tries_s[-1] < 0.01:
            break
    assert min(tries_s) < 0.01  # 1 to 3 ms; the whole takes up to 200 ms


def _longest_s(body: bytes) -> float:
    steps = split(body, events_max=10_000, event_bytes_max=MB, lenient=False)
    longest_s = 0.0
    while True:
        began_s = time.thread_time()
        try:
            next(steps)
        except (StopIteration, BadBody, BodyTooLarge):
            return max(longest_s, time.thread_time() - began_s)
        longest_s = max(longest_s, time.thread_time() - began_s)


def test_large_bodies_are_split_like_small_ones() -> None:
    events = [
        b'{"n": %d, "text": "}, {", "list": [1, {"a": [",\\ud800"]}]}' % n for n in range(40_000)
    ]
    body = b" [" + b" ,\n".join(events) + b" ] "
    assert len(body) > 2 * MB
    assert _split(body) == events
    with pytest.raises(BodyTooLarge, match="the limit is 39999"):
        _split(body, 39_999)
    large = b'{"a": "' + b"x" * (2 * MB) + b'"}'
    assert _split(b"[1, " + large + b" , 2]") == [b"1", large, b"2"]


@pytest.mark.parametrize("wrong", [b"", b"  ", b"1 2", b"[", b"]", b'"', b"]]", b"nul", b"\\"])
def test_a_large_invalid_body_is_refused(wrong: bytes) -> None:
    some = b"1," * (MB // 2)
    for body in (b"[" + some + wrong + b"]", b"[" + wrong + b"," + some + b"1]"):
        with pytest.raises(BadBody, match="not JSON"):
            _split(body)


def test_an_event_with_too_many_values_is_not_parsed() -> None:
    def problem(event: bytes) -> str | None:
        steps = read(event, bytes_max=MB, values_max=10_000, depth_max=64, lenient=False)
        try:
            finished(steps)
        except EventProblem as found:
            return found.message
        return None

    assert problem(b'{"a":' + _repeated(b"1,", 30_000) + b"}") == "event has more than 10000 values"
    assert (
        problem(b'{"a":' + _repeated(b"{},", 30_100) + b"}") == "event has more than 10000 values"
    )
    assert problem(b'{"a":' + _repeated(b"1,", 19_900) + b"}") is None
    assert problem(json.dumps({"a": "[{,:" * 100_000, "b": ['"\\', "["] * 4000}).encode()) is None
