"""Writes the files of `export`: NDJSON, plain or compressed, and Parquet.

A file is first written under the name FILE.part, and gets its own name when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import importlib
import io
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any, Protocol, cast

import click
import cramjam
import orjson

from eventstreams.errors import EventStreamsError
from eventstreams.model.timestamp import parse_timestamp

_ROWS_MAX = 20_000
_ROWS_BYTES_MAX = 32 * 2**20
"""The maximum events, and bytes of JSON, of a row group, which is in memory until it is written."""
_ZSTD_LEVEL = 3
_INT64 = 2**63


class Writer(Protocol):
    """Writes events to a file that `whole_file` has opened. Raises OSError."""

    def write(self, line: bytes) -> None:
        """Write an event: one line of JSON, without a line end."""
        ...

    def close(self) -> None:
        """Write what is left. The file itself stays open."""
        ...


def writer_of(path: Path) -> Callable[[IO[bytes]], Writer]:
    """Return what writes the format that the name ends with. Raises click.UsageError."""
    for ending, make in _WRITERS.items():
        if path.name.endswith(ending):
            if make is ParquetWriter:
                _arrow("pyarrow")
            return make
    raise click.UsageError(f"-o: {path.name!r} ends with none of {', '.join(_WRITERS)}")


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool) -> Generator[IO[bytes]]:
    """Open a file that gets the name `path` when the block ends without an error.

    Raises EventStreamsError if the file exists, unless `force`, or if it cannot be written.
    """
    if path.exists() and not force:
        raise EventStreamsError(f"{path}: exists; --force replaces it")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EventStreamsError(f"{part}: another export is writing this file") from None
            try:
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise EventStreamsError(f"{path}: {error.strerror or error}") from error


class LineWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        self._file.write(line + b"\n")

    def close(self) -> None:
        pass


class GzipWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = gzip.GzipFile(fileobj=file, mode="wb", mtime=0)

    def write(self, line: bytes) -> None:
        self._file.write(line + b"\n")

    def close(self) -> None:
        self._file.close()


class ZstdWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compressor = cramjam.zstd.Compressor(_ZSTD_LEVEL)
        self._pending = io.BytesIO()

    def write(self, line: bytes) -> None:
        self._pending.write(line + b"\n")
        if self._pending.tell() >= 2**20:
            self._compress()

    def close(self) -> None:
        self._compress()
        self._file.write(bytes(self._compressor.finish()))

    def _compress(self) -> None:
        self._compressor.compress(self._pending.getvalue())
        self._pending = io.BytesIO()
        self._file.write(bytes(self._compressor.flush()))


class ParquetWriter:
    """Writes the place of each event as columns, and the event as JSON in the column `event`."""

    def __init__(self, file: IO[bytes]) -> None:
        arrow = _arrow("pyarrow")
        self._arrow = arrow
        self._schema = arrow.schema(
            [
                ("dt", arrow.timestamp("ms", tz="UTC")),
                ("stream", arrow.string()),
                ("topic", arrow.string()),
                ("partition", arrow.int64()),
                ("offset", arrow.int64()),
                ("event", arrow.string()),
            ]
        )
        self._file = _arrow("pyarrow.parquet").ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, line: bytes) -> None:
        self._rows.append(_row(line))
        self._bytes += len(line)
        if len(self._rows) >= _ROWS_MAX or self._bytes >= _ROWS_BYTES_MAX:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        rows, self._rows, self._bytes = self._rows, [], 0
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self._schema)
        arrays = [
            self._arrow.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))


def _row(line: bytes) -> tuple[Any, ...]:
    """Return the values of an event's columns; None for those that it lacks."""
    document: Any = orjson.loads(line)
    found: Any = cast("dict[str, Any]", document if isinstance(document, dict) else {}).get("meta")
    meta = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    dt, *texts = (meta.get(name) for name in ("dt", "stream", "topic"))
    numbers = (meta.get(name) for name in ("partition", "offset"))
    return (
        parse_timestamp(dt) if isinstance(dt, str) else None,
        *(text if isinstance(text, str) else None for text in texts),
        *(n if type(n) is int and abs(n) < _INT64 else None for n in numbers),
        line.decode("utf-8", "replace"),
    )


def _arrow(module: str) -> Any:
    """Return a module of pyarrow. Raises EventStreamsError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EventStreamsError(
            "Parquet needs pyarrow, which is not installed: pip install 'eventstreams[parquet]'; "
            "NDJSON works without it"
        ) from error


_WRITERS: dict[str, Callable[[IO[bytes]], Writer]] = {
    ".ndjson": LineWriter,
    ".ndjson.gz": GzipWriter,
    ".ndjson.zst": ZstdWriter,
    ".parquet": ParquetWriter,
}
