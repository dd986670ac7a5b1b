"""Reads and writes the file in which `tail` keeps the id of the last event that it wrote.

The file contains only the id and a line end, so that other programs can use it too: `curl -H
"Last-Event-ID: $(cat FILE)" ...`. It is replaced atomically and never written in place: the new
file is on disk before it replaces the old one, so one of the two survives a crash.

A file without an id is an error. Starting at the present instead would silently skip events.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from eventstreams.errors import ConfigError, InvalidAssignment
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.stop_condition import unwrap

_BYTES_MAX = 2 * 2**20
"""Longer than any id: servers accept much less in a header."""
_GATEWAY_ID_BEGINS = ("[", "{", "v1.")
_NO_HEADER_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that RFC 9110 (5.5) excludes from the value of a header."""
_START_AGAIN = "remove the file to start from now"


class StateFile:
    def __init__(self, path: Path) -> None:
        """Check that the file can be written. Raises ConfigError if not."""
        self._path = path.resolve()
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._mode: int | None = None
        self._saved: str | None = None
        if self._path.is_dir():
            raise ConfigError([f"--state: {path} is a directory"])
        if self._path.exists() and not self._path.is_file():
            raise ConfigError([f"--state: {path} is not a regular file"])
        try:
            self._write("")
        except OSError as error:
            why = error.strerror or str(error)
            folder = self._path.parent
            raise ConfigError([f"--state: no file can be written in {folder}: {why}"]) from error
        finally:
            self._discard()

    def load(self) -> str | None:
        """Return the saved id, or None if there is no file yet.

        Raises ConfigError if the file cannot be read or contains anything but one id.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(_BYTES_MAX + 1)
                self._mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = content.decode()
        except FileNotFoundError:
            return None
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError([f"--state: {self._path} cannot be read: {why}"]) from error
        except UnicodeDecodeError as error:
            raise self._wrong(f"is not UTF-8: {error}") from error
        self._saved = text = text.strip()
        if not content:
            raise self._wrong("is empty")
        if not text:
            raise self._wrong("contains only white space")
        if not is_header_value(text) or len(content) > _BYTES_MAX:
            raise self._wrong("does not contain an event id, which is one line of text")
        if text.startswith(_GATEWAY_ID_BEGINS):
            try:
                parse_last_event_id(unwrap(text)[1])
            except InvalidAssignment as error:
                raise self._wrong(f"contains a damaged id: {error}") from error
        return text

    def save(self, event_id: str | None) -> None:
        """Save an id. Raises OSError; the file is then unchanged."""
        if event_id is None or event_id == self._saved:
            return
        try:
            self._write(event_id + "\n")
            self._temporary.replace(self._path)
        finally:
            self._discard()
        self._saved = event_id

    def _write(self, text: str) -> None:
        with self._temporary.open("w", encoding="utf-8") as file:
            if self._mode is not None:
                os.fchmod(file.fileno(), self._mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError([f"--state: {self._path} {what}; {_START_AGAIN}"])


def is_header_value(event_id: str) -> bool:
    """Return whether a Last-Event-ID header can carry the id."""
    return not _NO_HEADER_VALUE.search(event_id)
