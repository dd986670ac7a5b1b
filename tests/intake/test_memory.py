"""Requests use no more memory than they are charged for, and refused ones free it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import tracemalloc
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import Settings, SqliteSettings
from eventstreams.errors import BadBody, BodyTooLarge, LogError
from eventstreams.gateway import open_intake, open_schemas
from eventstreams.intake.admission import Admission, Lease
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.intake import Intake
from eventstreams.intake.outcome import Report, body
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Partition, Placed, Record
from eventstreams.turns import Turns
from tests.support.intake import SHIPPED, STREAMS, TEST, event

pytestmark = pytest.mark.anyio

MB = 2**20
SLACK_BYTES = MB
"""Allowance for what the parser builds from one part of a body, and for lists of response parts."""
BODIES: dict[str, Any] = {
    "numbers": [1] * 10_000,
    "small events": [event("a")] * 5_000,
    "wrong events": [{**event("a"), "test": 1}] * 5_000,
    "many small values": [[1, 2, 3] * 10] * 5_000,
    "events of 400 bytes": [event("x" * 300)] * 5_000,
    "one event of empty lists": {**event("a"), "more": [[]] * 9_900},
    "one event of small objects": {**event("a"), "more": [{"a": 1}] * 4_900},
    "one long text": event("x" * (MB - 400)),
    "escapes": [event("\u00e9" * 1_000)] * 500,
}


class Observed(Lease):
    """A lease that records its greatest size."""

    most = 0

    def _add(self, more: int) -> None:
        super()._add(more)
        self.most = max(self.most, self.bytes)


@contextlib.contextmanager
def observed_lease() -> Generator[Observed]:
    admission = Admission(bytes_max=2**40, client_bytes_max=2**40, client_bodies_max=10)
    with admission.lease("192.0.2.1") as lease:
        observed = Observed(admission, lease._client)
        yield observed
        observed.release()


def sender() -> Sender:
    return Sender(header=lambda _: None, client_ip=None, site="192.0.2.1")


class Forgetful(SqliteLog):
    """A log that keeps no records, so that only the memory of requests is measured."""

    async def offer(self, records: Sequence[Record]) -> list[Placed | LogError]:
        return [Placed(Partition(record.topic, 0), 0) for record in records]


def _catalogue(folder: Path) -> Catalogue:
    path = folder / "streams.json"
    path.write_text(json.dumps({TEST: STREAMS[TEST]}))
    return load_catalogue(path)


@contextlib.asynccontextmanager
async def open_alone(folder: Path) -> AsyncGenerator[Intake]:
    """Run an intake without a gateway."""
    settings = Settings(schemas=(str(SHIPPED),))
    catalogue = await asyncio.to_thread(_catalogue, folder)
    schemas = open_schemas(settings)
    intake = open_intake(
        settings=settings.intake,
        catalogue=lambda: catalogue,
        schemas=schemas,
        log=Forgetful(directory=folder, settings=SqliteSettings()),
        metrics=Metrics(),
        turns=Turns(),
        stop_in_s=lambda: 1.0,
    )
    try:
        async with intake.running():
            yield intake
    finally:
        await schemas.aclose()


async def judge(intake: Intake, body_of: bytes) -> tuple[Report, int, int]:
    """Return what became of the events of a body, how many bytes of memory that took, and how
    many the request was charged with."""
    with observed_lease() as lease:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        text = bytes(bytearray(body_of))  # a copy, like a received body
        lease.cover(len(text))
        posted = await intake.split(text, sender(), lease)
        del text
        report = await intake.take(posted, sender(), lease)
        answer = list(body(report))
        _, peak = tracemalloc.get_traced_memory()
        assert not report.rejections or lease.bytes >= sum(map(len, answer))
        return report, peak - before, lease.most


@contextlib.contextmanager
def traced() -> Generator[None]:
    """Trace memory without garbage collection."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("name", "space"), [*((name, "") for name in BODIES), ("small events", " ")]
)
async def test_a_request_uses_no_more_memory_than_charged(
    tmp_path: Path, name: str, space: str
) -> None:
    text = (space + json.dumps(BODIES[name]) + space).encode()
    async with open_alone(tmp_path) as intake:
        await judge(intake, json.dumps(event()).encode())  # compiles the schema
        with traced():
            report, taken, charged = await judge(intake, text)
    assert report.count == (len(BODIES[name]) if isinstance(BODIES[name], list) else 1)
    assert taken <= charged + SLACK_BYTES


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"[" + b"1," * 20_000 + b"1]", BodyTooLarge),
        (b'{"a":' + b" " * 900_000 + b"]", BadBody),
        (b"[" + b'"a",' * 400_000 + b"a]", BodyTooLarge),
    ],
)
async def test_a_refused_body_is_freed_immediately(
    tmp_path: Path, text: bytes, kind: type[Exception]
) -> None:
    async with open_alone(tmp_path) as intake:
        with traced():
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(5):
                with pytest.raises(kind):
                    await judge(intake, text)
            await asyncio.sleep(0)
            left, _ = tracemalloc.get_traced_memory()
    assert left - before < MB // 8
