"""The file in which `tail` keeps the id of the last event it wrote.

It holds the id and a line end, nothing else, so that other programs can use it too:
`curl -H "Last-Event-ID: $(cat FILE)" ...`. It is replaced whole, never written in place.
"""

from __future__ import annotations

import os
from pathlib import Path

from eventstreams.errors import ConfigError


class StateFile:
    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file could not be written later."""
        self._path = path.resolve()
        if self._path.is_dir():
            raise ConfigError([f"--state: {path} is a directory"])
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise ConfigError([f"--state: no file can be written in {self._path.parent}"])
        self._saved: str | None = None

    def load(self) -> str | None:
        """The id kept, None if there is none. Raises ConfigError where it is something else."""
        try:
            text = self._path.read_text("utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"--state: {self._path} can't be read: {error}"]) from error
        if not text.isprintable():
            raise ConfigError([f"--state: {self._path} does not hold the id of an event"])
        self._saved = text or None
        return self._saved

    def save(self, event_id: str | None) -> None:
        """Raises OSError; the file is then as it was."""
        if event_id is None or event_id == self._saved:
            return
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(event_id + "\n", "utf-8")
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)
        self._saved = event_id
