"""Tickets are valid once, and for a short time."""

from __future__ import annotations

import pytest

from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Identity
from eventstreams.errors import InvalidToken
from eventstreams.metrics import Metrics
from eventstreams.quota.quota import LocalQuota, Quota

pytestmark = pytest.mark.anyio

WHO = Identity("someone", frozenset({"read:a", "read:b"}), 2.0**40)


async def test_a_ticket_is_valid_once() -> None:
    tickets = Tickets(quota=Quota(LocalQuota(), Metrics()), ttl_s=60.0)
    ticket = await tickets.issue(WHO)
    assert await tickets.redeem(ticket) == WHO
    with pytest.raises(InvalidToken):
        await tickets.redeem(ticket)


async def test_a_ticket_expires() -> None:
    tickets = Tickets(quota=Quota(LocalQuota(), Metrics()), ttl_s=0.0)
    ticket = await tickets.issue(WHO)
    with pytest.raises(InvalidToken):
        await tickets.redeem(ticket)
