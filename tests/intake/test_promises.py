"""Work promised by responses: finished work is forgotten, unfinished work reported at the end."""

from __future__ import annotations

import logging

import pytest

from eventstreams.intake.enrichment import Sender
from eventstreams.intake.outcome import Elements
from eventstreams.intake.promises import Promises
from eventstreams.intake.request import PostedEvents

pytestmark = pytest.mark.anyio

SENDER = Sender(header=lambda _: None, client_ip=None, site="192.0.2.1")


async def test_only_unfinished_requests_are_reported_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    promises = Promises(lambda: 60.0)
    elements = Elements(plain=False, event_bytes_max=10**6, silent=True)
    requests = [PostedEvents([b"{}"] * 2, SENDER, lease=None, elements=elements) for _ in range(2)]

    async def work(request: PostedEvents, settled: int) -> None:
        request.unsettled -= settled

    for request, settled in zip(requests, (2, 1), strict=True):
        promises.keep(work(request, settled), request)
    await promises.kept()
    assert promises.hasty == {requests[1]}
    with caplog.at_level(logging.WARNING):
        await promises.finish()
    assert "1 events of 1 requests" in caplog.text
