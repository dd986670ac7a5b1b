"""What is declared now: the catalogue, read again when its file changes, without a restart.

A catalogue with mistakes is refused as a whole: the old one stays, and every mistake is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from eventstreams.errors import ConfigError
from eventstreams.metrics import Metrics
from eventstreams.model.stream import Catalogue, digest_of, load_catalogue
from eventstreams.model.stream_config import StreamConfigs

_log = logging.getLogger(__name__)


class Declarations:
    def __init__(
        self,
        catalogue: Catalogue,
        *,
        path: Path | None,
        metrics: Metrics,
        accept: Callable[[Catalogue], list[str]] = lambda _: [],
    ) -> None:
        """`path`: where the catalogue was read from; without one it stays as it is. `accept` says
        what besides is wrong with a new one."""
        self.catalogue = catalogue
        self.changed = asyncio.Event()
        """Set when there is another catalogue; whoever acts on that clears it first."""
        self._path = path
        self._metrics = metrics
        self._accept = accept
        self._asked = asyncio.Event()

    @property
    def configs(self) -> StreamConfigs:
        return self.catalogue.configs

    def poke(self) -> None:
        """Has the file read again soon, whether it has changed or not."""
        self._asked.set()

    async def watch(self, every_s: float) -> None:
        """Until cancelled: looks at the file every so often, and when poked."""
        if self._path is None:
            return
        seen = self.catalogue.digest
        while True:
            asked = False
            try:
                async with asyncio.timeout(every_s):
                    asked = await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            found = await asyncio.to_thread(digest_of, self._path)
            if asked or found != seen:
                seen = found
                await self.reload()

    async def reload(self) -> bool:
        """Whether what the file holds now is good; it holds from here on then."""
        assert self._path is not None
        try:
            catalogue = await asyncio.to_thread(load_catalogue, self._path)
            if problems := self._accept(catalogue):
                raise ConfigError(problems)
        except ConfigError as error:
            for problem in error.problems:
                _log.error("the catalogue is not taken, the old one stays: %s", problem)
            self._metrics.catalogue_reloads.labels("refused").inc()
            return False
        except Exception:  # a fault of ours must not cut every stream
            _log.exception("the catalogue could not be read, the old one stays")
            self._metrics.catalogue_reloads.labels("refused").inc()
            return False
        self.catalogue = catalogue
        _log.info("the catalogue was read again", extra={"streams": len(catalogue.streams)})
        self._metrics.catalogue_reloads.labels("taken").inc()
        self.changed.set()
        return True
