"""Reads files again while the process runs. A file with mistakes changes nothing.

`CatalogueWatcher` polls the stream catalogue and reads it again when its content changes;
`LiveSettings` reads the settings again on request (SIGHUP). Both are a `Reloader`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

from eventstreams.config.catalogue import digest_of, load_catalogue
from eventstreams.config.settings import Settings, describe
from eventstreams.errors import ConfigError
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.stream_config import StreamConfigs

_log = logging.getLogger(__name__)

_FIXED_LIMITS = ("limits.connections_max", "limits.head_bytes_max")
"""The server reads these once, when it starts."""

T = TypeVar("T")


class Reloader(Generic[T]):
    """The current value of something read from files, and the task that reads it again."""

    def __init__(
        self, current: T, *, name: str, read: Callable[[], T], count: Callable[[str], None]
    ) -> None:
        """`name` is for the log ("catalogue"). `read` runs on a thread and raises ConfigError.
        `count` is called with the outcome of each reload, `taken` or `refused`."""
        self.current = current
        self.changed = asyncio.Event()
        """Set when `current` has been replaced. A task that acts on it clears it first."""
        self._name = name
        self._read = read
        self._count = count
        self._requested = asyncio.Event()

    def request_reload(self) -> None:
        """Make `watch` read the files again soon, whether they have changed or not."""
        self._requested.set()

    async def watch(self) -> None:
        """Reload on request, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Read the files now. Return True if they are valid; they are in use from then on."""
        try:
            current = await asyncio.to_thread(self._read)
        except ConfigError as error:
            for problem in error.problems:
                _log.error(
                    "cannot use the new %s, keeping the previous one: %s", self._name, problem
                )
            self._count("refused")
            return False
        except Exception:  # an unexpected error must not end every stream
            _log.exception("could not read the %s, keeping the previous one", self._name)
            self._count("refused")
            return False
        self.current = current
        _log.info("read the %s again", self._name)
        self._count("taken")
        self.changed.set()
        return True


class CatalogueWatcher(Reloader[Catalogue]):
    """The stream catalogue, read again when its file changes."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        path: Path | None,
        metrics: Metrics,
        accept: Callable[[Catalogue], list[str]] = lambda _: [],
    ) -> None:
        """`path` is where the catalogue was read from; without one it never changes. `accept`
        returns further problems of a new catalogue, for example with the settings."""
        super().__init__(
            catalogue,
            name="catalogue",
            read=self._load,
            count=lambda outcome: metrics.catalogue_reloads.labels(outcome).inc(),
        )
        self._path = path
        self._accept = accept

    @property
    def catalogue(self) -> Catalogue:
        return self.current

    @property
    def configs(self) -> StreamConfigs:
        return self.current.configs

    async def poll(self, every_s: float) -> None:
        """Reload on request, and when the file's content has changed, which is checked every
        `every_s`; until cancelled.
        """
        if self._path is None:
            return
        seen = self.current.digest
        while True:
            requested = False
            try:
                async with asyncio.timeout(every_s):
                    requested = await self._requested.wait()
            except TimeoutError:
                pass
            self._requested.clear()
            found = await asyncio.to_thread(digest_of, self._path)
            if requested or found != seen:
                seen = found
                await self.reload()

    def _load(self) -> Catalogue:
        assert self._path is not None
        catalogue = load_catalogue(self._path)
        if problems := self._accept(catalogue):
            raise ConfigError(problems)
        return catalogue


class LiveSettings(Reloader[T]):
    """The current value made from the settings that may change while the process runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        build: Callable[[Settings], T],
        reread: Callable[[], Settings] | None,
        metrics: Metrics,
    ) -> None:
        """`build` makes the value from the settings and the files that they name. `reread` returns
        the settings as their file has them now; without it only the files that the settings name
        are read again. Both raise ConfigError, and so does this."""
        super().__init__(
            build(settings),
            name="settings",
            read=self._load,
            count=lambda outcome: metrics.settings_reloads.labels(outcome).inc(),
        )
        self._build = build
        self._settings = settings
        self._reread = reread or (lambda: settings)

    def now(self) -> T:
        return self.current

    def _load(self) -> T:
        settings = self._reread()
        value = self._build(settings)
        for name in _changed_at_start_only(self._settings, settings):
            _log.warning("%s has changed; the change takes effect at the next start", name)
        return value


def _changed_at_start_only(before: Settings, after: Settings) -> Iterator[str]:
    for name, _ in describe():
        value = attrgetter(name)
        if not _is_live(name) and value(before) != value(after):
            yield name


def _is_live(name: str) -> bool:
    """Whether a change of the setting takes effect while the process runs."""
    if name.startswith("limits."):
        return name not in _FIXED_LIMITS
    return name in ("access.producer_keys", "access.admin_key_file")
