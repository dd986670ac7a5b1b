"""What of the settings holds now: read again on SIGHUP, while streams stay open.

Settings with mistakes are refused as a whole: the old ones stay, and every mistake is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from operator import attrgetter

from eventstreams.access.policy import Policy
from eventstreams.errors import ConfigError
from eventstreams.metrics import Metrics
from eventstreams.opening import open_policy
from eventstreams.settings import Settings, describe

_log = logging.getLogger(__name__)

_FIXED_LIMITS = ("limits.connections_max", "limits.head_bytes_max")
"""The server has them from its start on."""


class Policies:
    def __init__(
        self, settings: Settings, *, reread: Callable[[], Settings] | None, metrics: Metrics
    ) -> None:
        """`reread` gives the settings as they are in their file now, and raises ConfigError;
        without it the settings stay, and only the files that they name are read again. Raises
        ConfigError."""
        self.current = open_policy(settings)
        self._settings = settings
        self._reread = reread or (lambda: settings)
        self._metrics = metrics
        self._asked = asyncio.Event()

    def now(self) -> Policy:
        return self.current

    def poke(self) -> None:
        """Has all of it read again soon."""
        self._asked.set()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Whether what there is now is good; it holds from here on then."""
        try:
            settings, policy = await asyncio.to_thread(self._read)
        except ConfigError as error:
            for problem in error.problems:
                _log.error("the settings are not taken, the old ones stay: %s", problem)
            self._metrics.settings_reloads.labels("refused").inc()
            return False
        except Exception:  # a fault of ours must not cut every stream
            _log.exception("the settings could not be read, the old ones stay")
            self._metrics.settings_reloads.labels("refused").inc()
            return False
        self.current = policy
        for name in _changed_at_start_only(self._settings, settings):
            _log.warning("%s has changed; that takes effect at the next start", name)
        _log.info("the settings were read again")
        self._metrics.settings_reloads.labels("taken").inc()
        return True

    def _read(self) -> tuple[Settings, Policy]:
        settings = self._reread()
        return settings, open_policy(settings)


def _changed_at_start_only(before: Settings, after: Settings) -> Iterator[str]:
    for name, _ in describe():
        value = attrgetter(name)
        if not _is_live(name) and value(before) != value(after):
            yield name


def _is_live(name: str) -> bool:
    """Whether a change of the setting takes effect at once."""
    if name.startswith("limits."):
        return name not in _FIXED_LIMITS
    return name in ("access.producer_keys", "access.admin_key_file")
