"""Runs a gateway as the target of attacks: every part is enabled, and log lines are collected.

Its parts are intake, tokens (HS256, also in a cookie), tickets, the operator's list, filters,
stream configuration, schemas and the pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

from eventstreams.config.settings import AccessSettings
from eventstreams.log.base import Log
from eventstreams.model.event import Partition, Record
from eventstreams.server.logs import JsonFormatter
from eventstreams.web.app import App
from tests.support.gateway import Served, as_value
from tests.support.intake import ERRORS, TEST, place
from tests.support.issuer import SECRET, secret_token
from tests.support.waiting import PATIENCE_S, until

ADMIN_KEY = "operator-" + "k" * 32
COOKIE = "session"
SECRET_STREAM = "secret"
STREAMS: dict[str, Any] = {
    TEST: {"schema_title": "test/event", "description": "Events of the attack."},
    ERRORS: {"schema_title": "error"},
    SECRET_STREAM: {"schema_title": "test/event", "scope": "read:secret"},
    "/^test\\.regex\\..+/": {"schema_title": "test/event"},
}


class Recorder:
    """Wraps the application and records the requests that it receives."""

    def __init__(self, app: App, requests: list[str]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._requests.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)


class Target:
    """A gateway under attack."""

    def __init__(self, served: Served, log: Log, lines: list[str], requests: list[str]) -> None:
        self.served = served
        self.port = served.port
        self.log = log
        self.requests = requests
        """The method and path of each request that reached the application."""
        self.lines = lines
        """The lines of the process's log from warnings on."""

    @property
    def token(self) -> str:
        return secret_token(scope="read:secret")

    async def produce(self, *values: Any, topic: str = TEST) -> None:
        await self.log.append([Record(topic, as_value(v), None, None, 0) for v in values])

    async def followed(self, topic: str = TEST) -> None:
        """Wait until the gateway has read everything in the topic."""
        partition = Partition(topic, 0)
        end = (await self.log.bounds([partition]))[partition].end
        async with asyncio.timeout(PATIENCE_S):
            while self.served.parts.hub.tails.end(partition) < end:
                await asyncio.sleep(0)

    async def is_unharmed(self) -> None:
        """Check that the gateway responds, has no clients left, and has logged no errors."""
        await until(self._responds)
        async with asyncio.timeout(PATIENCE_S):
            while self.served.server.server_state.tasks:
                await asyncio.sleep(0)
        assert self.served.count("clients") == 0
        faults = [line for line in self.lines if '"level":"error"' in line]
        assert not faults, "\n".join(faults[:3])

    async def _responds(self) -> bool:
        """Return False if this client was too slow for the limits of the target."""
        try:
            return (await self.served.get("/healthz")).status == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


class _Kept(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(JsonFormatter())
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def listened_to() -> Iterator[list[str]]:
    """Collect the lines of the process's log from warnings on."""
    lines: list[str] = []
    handler = _Kept(lines)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


@asynccontextmanager
async def target(
    folder: Path, *, streams: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Target]:
    """Run a target. `settings` are further arguments of `place`."""
    folder.joinpath("secret").write_bytes(SECRET)
    folder.joinpath("admin").write_text(ADMIN_KEY)
    access = AccessSettings(
        cookie=COOKIE,
        hs256_secret_file=str(folder / "secret"),
        admin_key_file=str(folder / "admin"),
    )
    requests: list[str] = []

    def recording(app: App) -> App:
        return cast("App", Recorder(app, requests))

    with listened_to() as lines:
        async with place(
            folder, streams=streams or STREAMS, access=access, wrap=recording, **settings
        ) as here:
            yield Target(here.served, here.log, lines, requests)
