"""The bodies of posts: their memory is charged, and slow ones are refused."""

from __future__ import annotations

import asyncio
import gzip
import random
from typing import Any

import pytest

from eventstreams.config.settings import IntakeSettings
from eventstreams.errors import BodyTimeout
from eventstreams.intake.admission import Admission
from eventstreams.turns import Turns
from eventstreams.web.bodies import Bodies

pytestmark = pytest.mark.anyio


async def test_a_body_that_arrives_too_slowly_is_refused() -> None:
    messages = [{"type": "http.request", "body": b"x" * 100_000, "more_body": True}]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    admission = Admission(bytes_max=10**7, client_bytes_max=10**7, client_bodies_max=1)
    settings = IntakeSettings(body_timeout_s=3600, body_bytes_per_s_min=1_000_000)
    bodies = Bodies(settings, Turns(), grace_s=0.1)
    headers = [(b"content-type", b"application/json")]
    with (
        admission.lease("192.0.2.1") as lease,
        pytest.raises(BodyTimeout, match="fewer than 1000000 bytes a second"),
    ):
        await bodies.read({"headers": headers}, receive, lease, "192.0.2.1")


async def test_the_memory_of_a_compressed_body_is_released() -> None:
    content = random.Random(0).randbytes(100_000)
    packed = gzip.compress(content)
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]

    async def receive() -> Any:
        return {"type": "http.request", "body": packed, "more_body": False}

    admission = Admission(bytes_max=10**7, client_bytes_max=10**7, client_bodies_max=1)
    bodies = Bodies(IntakeSettings(), Turns())
    with admission.lease("192.0.2.1") as lease:
        assert await bodies.read({"headers": headers}, receive, lease, "192.0.2.1") == content
        assert lease.bytes == admission.bytes == len(content)
