"""Parses events once for all selectors.

A document is parsed from the bytes of its frame, so selectors see what clients receive. It is
written by the library that wrote the frame, so that no number changes its digits.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson

from eventstreams.model.frame import Frame, dump_with_care, escape_line_ends

_LONG_NUMBER = re.compile(rb"\d{19}")
_UNPRESENTABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SEARCHED_BYTES_MAX = 32 * 2**10
"""Searching an event of this size takes about 0.3 ms; searching 1 MB takes up to 30 ms."""
_INT_MAX = 2**63
_SCRATCH_BYTES_MAX = 16 * 2**10
"""How much memory evaluations may leave in a shared activation before it is replaced."""
VALUES_MAX = 30_000
"""The most values of an event that is parsed: larger ones would block the event loop."""
_SIZE_FACTOR = 4
_VALUE_BYTES = 150
"""Memory of the parsed document and its activation, for each byte of the frame and for each value.
Measured with extreme values; an empty list takes the most for its two bytes."""

_SEPARATORS = (b",", b"[", b"{")
"""One of them comes before each value but the first."""

Writer = Callable[[Mapping[str, Any]], bytes]


class Origin(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Document:
    """A parsed event. `fields` is None if it is an array or has too many values."""

    __slots__ = (
        "_activation",
        "_data",
        "_exact",
        "_is_presentable",
        "_presentable",
        "_scratch_bytes",
        "_values",
        "fields",
        "origin",
        "sample_hash",
        "size",
    )

    def __init__(self, origin: Origin, data: bytes) -> None:
        self.origin = origin
        self.size = len(data)
        self.sample_hash: int | None = None
        """As `sample_hash` in `sample.py` computes it; None before the first use."""
        self._values: int | None = None
        self._data = data
        self.fields = _fields(data) if self._fits() else None
        self._exact: tuple[Mapping[str, Any], Writer] | None = None
        self._presentable: dict[str, Any] | None = None
        self._is_presentable = False
        self._activation: Any = None
        self._scratch_bytes = 0

    @property
    def values(self) -> int:
        """As `count_values`."""
        if self._values is None:
            self._values = count_values(self._data)
        return self._values

    def size_of(self, path: Sequence[str]) -> tuple[int, int]:
        """Return an upper estimate of the bytes and values of the field at this path."""
        value: Any = self.fields
        for name in path:
            if not isinstance(value, dict):
                return 0, 0
            value = cast("dict[str, Any]", value).get(name)
        if isinstance(value, str):
            return len(value) if value.isascii() else len(value) * 4, 1
        if not isinstance(value, (dict, list)):
            return 16, 1
        if not path:
            return self.size, self.values
        try:
            data = orjson.dumps(value)
        except orjson.JSONEncodeError:
            return self.size, self.values
        return len(data), count_values(data)

    def _fits(self) -> bool:
        return self.size <= 2 * VALUES_MAX or self.values <= VALUES_MAX

    def writable(self) -> tuple[Mapping[str, Any], Writer]:
        """Return the fields ({} for an array) and a function that writes them as in the frame."""
        if self._exact is None:
            self._exact = self._find_writable()
        return self._exact

    def presentable(self) -> dict[str, Any] | None:
        """Return the fields as the CEL runtime can hold them, or None if it cannot.

        The runtime has integers of 64 bits, refuses lone surrogates and cuts strings at U+0000.
        """
        if not self._is_presentable:
            self._presentable = self._find_presentable()
            self._is_presentable = True
        return self._presentable

    @property
    def stream(self) -> str:
        """The event's `meta.stream` as the CEL runtime can hold it; empty if it names none."""
        meta: Any = (self.presentable() or {}).get("meta")
        stream: Any = cast("dict[str, Any]", meta).get("stream") if isinstance(meta, dict) else None
        return stream if isinstance(stream, str) else ""

    def _find_presentable(self) -> dict[str, Any] | None:
        fields = self.fields
        if not fields or self._is_plain():
            return fields
        try:
            return cast("dict[str, Any]", _presentable(fields))
        except RecursionError:
            return None

    def _is_plain(self) -> bool:
        """Return whether the text shows that the runtime can hold the fields unchanged. A large
        text is not searched, because examining its values takes less time."""
        data = self._data
        return len(data) <= _SEARCHED_BYTES_MAX and not (
            _LONG_NUMBER.search(data) or _UNPRESENTABLE.search(data)
        )

    def shared(self, make: Callable[[Document], Any], scratch_bytes: int) -> Any:
        """Return what `make` returns for this document; it is called again after many uses."""
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
    """The most recently used documents, by frame (by identity), within `bytes_max`."""

    def __init__(self, *, bytes_max: int = 16 * 2**20) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Frame, Document] = OrderedDict()

    def of(self, frame: Frame) -> Document | None:
        """Return the document of a frame, or None if the frame holds no event."""
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


def count_values(data: bytes) -> int:
    """Return an upper estimate of the number of values in this JSON, without keys."""
    return 1 + sum(map(data.count, _SEPARATORS))


def write(fields: Mapping[str, Any]) -> bytes:
    """Write fields as frames are written. Raises JSONEncodeError for lone surrogates."""
    return escape_line_ends(orjson.dumps(fields))


def _weight(document: Document) -> int:
    if document.fields is None:
        return document.size + _SCRATCH_BYTES_MAX
    return document.size * _SIZE_FACTOR + document.values * _VALUE_BYTES + _SCRATCH_BYTES_MAX


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


def _presentable_text(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text


def _presentable(value: Any) -> Any:
    if isinstance(value, str):
        return _presentable_text(value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_presentable_text(key): _presentable(inner) for key, inner in items}
    if isinstance(value, list):
        return [_presentable(inner) for inner in cast("list[Any]", value)]
    if type(value) is int and not -_INT_MAX <= value < _INT_MAX:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value
