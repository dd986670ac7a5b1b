"""Events parsed once, for all selectors that look at them.

A document is read from the bytes of its frame, so selectors see what clients get, and is written
again by the library that wrote the frame, so that no number changes its digits.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import orjson

from eventstreams.model.frame import Frame, dump_with_care, escape_line_ends

_LONG_NUMBER = re.compile(rb"\d{19}")
_UNPRESENTABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_HARMFUL = re.compile("[\0\ud800-\udfff]")
_INT_MAX = 2**63
_SCRATCH_BYTES_MAX = 16 * 2**10
"""What evaluations may leave in a shared activation's memory before it is replaced."""
_SIZE_FACTOR = 8
"""Memory of the parsed document and its activation, as a multiple of the frame's size."""


Writer = Callable[[Mapping[str, Any]], bytes]


class Origin(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Document:
    """An event as values. `fields` is None where the event is an array."""

    __slots__ = ("_activation", "_data", "_exact", "_scratch_bytes", "fields", "origin", "size")

    def __init__(self, origin: Origin, data: bytes) -> None:
        self.origin = origin
        self.size = len(data)
        self.fields = _fields(data)
        self._data = data
        self._exact: tuple[Mapping[str, Any], Writer] | None = None
        self._activation: Any = None
        self._scratch_bytes = 0

    def writable(self) -> tuple[Mapping[str, Any], Writer]:
        """The fields, {} for an array, and what writes parts of them as they stand in the frame."""
        if self._exact is None:
            self._exact = self._find_writable()
        return self._exact

    def presentable(self) -> dict[str, Any] | None:
        """The fields as the CEL runtime can hold them; None where it can't.

        It has integers of 64 bits, takes no lone surrogate, and cuts texts at U+0000.
        """
        fields = self.fields
        if fields and (_LONG_NUMBER.search(self._data) or _UNPRESENTABLE.search(self._data)):
            try:
                return cast("dict[str, Any]", _presentable(fields))
            except RecursionError:
                return None
        return fields

    def shared(self, make: Callable[[Document], Any], scratch_bytes: int) -> Any:
        """What `make` made of this document, made again when it has been used a lot."""
        self._scratch_bytes += scratch_bytes
        if self._activation is None or self._scratch_bytes > _SCRATCH_BYTES_MAX:
            self._activation = make(self)
            self._scratch_bytes = scratch_bytes
        return self._activation

    def _find_writable(self) -> tuple[Mapping[str, Any], Writer]:
        if self.fields is None:
            return {}, write
        try:
            if write(self.fields) == self._data:
                return self.fields, write
        except orjson.JSONEncodeError:
            pass
        return _fields_with_care(self._data) or {}, dump_with_care


class Documents:
    """The documents used last, kept as long as there is room. Frames count as themselves."""

    def __init__(self, *, bytes_max: int = 32 * 2**20) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Frame, Document] = OrderedDict()

    def of(self, frame: Frame) -> Document | None:
        """None where the frame holds no event."""
        found = self._kept.get(frame)
        if found is not None:
            self._kept.move_to_end(frame)
            return found
        data = frame.data
        if data is None:
            return None
        topic, partition = frame.partition
        made = Document(Origin(topic, partition, frame.offset, frame.timestamp_ms), data)
        self._kept[frame] = made
        self._bytes += _weight(made)
        while self._bytes > self._bytes_max:
            _, old = self._kept.popitem(last=False)
            self._bytes -= _weight(old)
        return made

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


def write(fields: Mapping[str, Any]) -> bytes:
    """As frames are written, for what the fast library takes."""
    return escape_line_ends(orjson.dumps(fields))


def _weight(document: Document) -> int:
    return document.size * _SIZE_FACTOR + _SCRATCH_BYTES_MAX


def _fields(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _fields_with_care(data)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _fields_with_care(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # nested so deeply that it depends on the caller's depth
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _presentable(value: Any) -> Any:
    if isinstance(value, str):
        return _HARMFUL.sub("\ufffd", value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_HARMFUL.sub("\ufffd", key): _presentable(inner) for key, inner in items}
    if isinstance(value, list):
        return [_presentable(inner) for inner in cast("list[Any]", value)]
    if type(value) is int and not -_INT_MAX <= value < _INT_MAX:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value
