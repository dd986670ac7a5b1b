"""What is attacked: one real gateway with every part on, and what it says of itself meanwhile.

Intake, tokens (HS256, also by cookie), tickets, the operator's list, filters, stream configuration,
schemas and the pages. Its log lines are kept, as they would be written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from eventstreams.gateway import running
from eventstreams.log.base import Log
from eventstreams.logs import JsonFormatter
from eventstreams.model.event import Partition, Record
from eventstreams.model.stream import Catalogue, load_catalogue
from eventstreams.settings import (
    AccessSettings,
    FanoutSettings,
    HttpSettings,
    IntakeSettings,
    LimitSettings,
    Settings,
)
from eventstreams.web.app import App
from tests.access.issuer import SECRET, secret_token
from tests.intake.place import ERRORS, SHIPPED, TEST
from tests.log.backends import Sqlite
from tests.web.gateway import Served, as_value, listening, settings_of, site_of

ADMIN_KEY = "operator-" + "k" * 32
COOKIE = "session"
SECRET_STREAM = "secret"
STREAMS: dict[str, Any] = {
    TEST: {"schema_title": "test/event", "description": "Events of the attack."},
    ERRORS: {"schema_title": "error"},
    SECRET_STREAM: {"schema_title": "test/event", "scope": "read:secret"},
    "/^test\\.regex\\..+/": {"schema_title": "test/event"},
}


class Seen:
    """The application, and what requests it was handed."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.requests: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)


class Target:
    def __init__(self, served: Served, log: Log, lines: list[str], requests: list[str]) -> None:
        self.served = served
        self.port = served.port
        self.log = log
        self.requests = requests
        """What the application was handed: method and path."""
        self.lines = lines
        """What the process has said, from warnings on; one line each."""

    @property
    def token(self) -> str:
        return secret_token(scope="read:secret")

    async def produce(self, *values: Any, topic: str = TEST) -> None:
        await self.log.append([Record(topic, as_value(v), None, None, 0) for v in values])

    async def followed(self, topic: str = TEST) -> None:
        """Returns when the gateway has read all that the topic holds."""
        partition = Partition(topic, 0)
        end = (await self.log.bounds([partition]))[partition].end
        async with asyncio.timeout(30):
            while self.served.parts.hub.tails.end(partition) < end:
                await asyncio.sleep(0)

    async def is_unharmed(self) -> None:
        """It answers, has nobody left, and has said nothing of a fault of its own."""
        assert (await self.served.get("/healthz")).status == 200
        async with asyncio.timeout(30):
            while self.served.server.server_state.tasks:
                await asyncio.sleep(0)
        assert self.served.count("clients") == 0
        faults = [line for line in self.lines if '"level":"error"' in line]
        assert not faults, "\n".join(faults[:3])


class _Kept(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(JsonFormatter())
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def listened_to() -> Iterator[list[str]]:
    """The lines of the process's log, from warnings on."""
    lines: list[str] = []
    handler = _Kept(lines)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


def prepared(folder: Path, access: dict[str, Any], streams: dict[str, Any]) -> Catalogue:
    folder.joinpath("secret").write_bytes(SECRET)
    folder.joinpath("admin").write_text(ADMIN_KEY)
    access["hs256_secret_file"] = str(folder / "secret")
    access["admin_key_file"] = str(folder / "admin")
    path = folder / "streams.yaml"
    path.write_text(yaml.safe_dump({"streams": streams}, sort_keys=False))
    return load_catalogue(path)


@asynccontextmanager
async def target(
    folder: Path,
    *,
    limits: LimitSettings | None = None,
    streams: dict[str, Any] | None = None,
    fanout: FanoutSettings | None = None,
    **intake: Any,
) -> AsyncIterator[Target]:
    """`intake`: settings of it."""
    access: dict[str, Any] = {"cookie": COOKIE}
    catalogue = await asyncio.to_thread(prepared, folder, access, streams or STREAMS)
    async with site_of(Sqlite) as site:
        settings = Settings(
            log=settings_of(site.backend),
            http=HttpSettings(),
            fanout=fanout or FanoutSettings(),
            limits=limits or LimitSettings(),
            schemas=(str(SHIPPED),),
            access=AccessSettings(**access),
            intake=IntakeSettings(error_stream=ERRORS, **intake),
        )
        with listened_to() as lines:
            async with running(settings, catalogue) as parts:
                seen = Seen(parts.app)
                async with listening(settings, parts._replace(app=cast("App", seen))) as served:
                    yield Target(served, site.log, lines, seen.requests)
