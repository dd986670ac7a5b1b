"""The memory of a request while its events are processed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from eventstreams.errors import IntakeShareUsed, LogUnavailable
from eventstreams.intake.admission import Admission
from eventstreams.intake.enrichment import Sender
from eventstreams.intake.outcome import Elements
from eventstreams.intake.request import PostedEvents, Ready
from eventstreams.model.event import Record

SENDER = Sender(header=lambda _: None, client_ip=None, site="192.0.2.1")
ROUTE = cast("Any", None)  # not used here


def admission_of(client_bytes_max: int = 10**7, *, bodies_max: int = 10) -> Admission:
    return Admission(
        bytes_max=10**8, client_bytes_max=client_bytes_max, client_bodies_max=bodies_max
    )


def test_the_values_of_an_event_are_counted_once() -> None:
    elements = Elements(plain=False, event_bytes_max=10**6)
    with admission_of().lease("192.0.2.1") as lease:
        lease.cover(20_000)
        request = PostedEvents([b"{}", b"{}"], SENDER, lease=lease, elements=elements)
        for index in range(2):
            request.ready.append(Ready(index, Record("t", b"x" * 50_000), ROUTE))
            for _ in range(3):
                request.cover()
            assert lease.bytes == 20_000 + sum(each.held_bytes for each in request.ready)


def test_offered_events_are_finished_without_memory() -> None:
    """Some of its events may be in the log, so the response must name the others."""
    admission = admission_of(client_bytes_max=100_000)
    event = b'"%b"' % (b"x" * 90_000)
    elements = Elements(plain=False, event_bytes_max=10**6)
    with admission.lease("192.0.2.1") as other, admission.lease("192.0.2.1") as lease:
        other.cover(20_000)
        lease.cover(20_000)
        request = PostedEvents([event, event], SENDER, lease=lease, elements=elements)
        unavailable = LogUnavailable("away")
        request.fail(elements.not_appended(0, event, unavailable), "s", unavailable)
        assert lease.bytes > 100_000
        assert request.unsettled == 1
        rejected = PostedEvents([event], SENDER, lease=lease, elements=elements)
        with pytest.raises(IntakeShareUsed):
            rejected.reject(elements.invalid(0, event, "wrong", ()))


def test_a_client_has_at_most_the_allowed_bodies() -> None:
    admission = admission_of(bodies_max=2)
    with (
        admission.lease("192.0.2.1") as first,
        admission.lease("192.0.2.1") as second,
        admission.lease("192.0.2.1") as third,
        admission.lease("192.0.2.2") as other,
    ):
        first.cover(1)
        second.cover(1)
        with pytest.raises(IntakeShareUsed, match="posting 2 bodies"):
            third.cover(1)
        other.cover(1)
        second.release()
        third.cover(1)


def test_a_single_request_may_exceed_its_clients_share() -> None:
    admission = admission_of(client_bytes_max=50_000)
    with admission.lease("192.0.2.1") as alone, admission.lease("192.0.2.2") as other:
        other.cover(1)
        alone.cover(60_000)
        with admission.lease("192.0.2.1") as second, pytest.raises(IntakeShareUsed):
            second.cover(1)
