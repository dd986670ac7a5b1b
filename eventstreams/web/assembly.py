"""The application, put together of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eventstreams.access.policy import Policy
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Tokens
from eventstreams.declarations import Declarations
from eventstreams.fanout.hub import Hub
from eventstreams.fanout.start import Starter
from eventstreams.intake.intake import Intake
from eventstreams.ledger.desk import Line
from eventstreams.ledger.ledger import Ledger
from eventstreams.legacy.beacon import Beacon
from eventstreams.metrics import Metrics
from eventstreams.schemas.store import SchemaStore
from eventstreams.settings import Settings
from eventstreams.turns import Turns
from eventstreams.web.access import Access, TicketPage
from eventstreams.web.address import Proxies
from eventstreams.web.admin import Admin
from eventstreams.web.answers import common_headers
from eventstreams.web.app import App
from eventstreams.web.beacon import BeaconPage
from eventstreams.web.events import Events
from eventstreams.web.explain import Explain
from eventstreams.web.health import Health
from eventstreams.web.limits import Limits
from eventstreams.web.open_streams import OpenStreams
from eventstreams.web.streams import Streams


def static_folder() -> Path:
    """The pages: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent.parent
    inside = package / "static"
    return inside if inside.is_dir() else package.parent / "static"


def assemble(
    *,
    settings: Settings,
    declarations: Declarations,
    schemas: SchemaStore,
    hub: Hub,
    open_streams: OpenStreams,
    intake: Intake | None,
    beacon: Beacon | None,
    metrics: Metrics,
    ledger: Ledger,
    tokens: Tokens,
    policy: Callable[[], Policy],
    line: Line | None,
    turns: Turns,
) -> App:
    """The parts that the settings ask for, at their addresses. `policy` gives what holds now,
    `line` leads to the other workers."""
    headers = common_headers(settings.http, cookies=settings.access.cookie is not None)
    access = Access(
        tokens=tokens,
        tickets=Tickets(ledger=ledger, ttl_s=settings.access.ticket_s),
        cookie=settings.access.cookie,
    )
    patience_s = min(settings.fanout.log_patience_s, settings.log.kafka.request_timeout_s)
    starter = Starter(hub=hub, patience_s=patience_s)
    compression = settings.http.compression
    proxies = Proxies(settings.http.trusted_proxies)
    limits = Limits(policy, ledger)
    explain = streams = events = beacon_page = ticket = admin = None
    if settings.only != "intake":
        explain = Explain(
            declarations=declarations,
            starter=starter,
            hub=hub,
            headers=headers,
            compression=compression,
            access=access,
            limits=limits,
            proxies=proxies,
            metrics=metrics,
            turns=turns,
        )
        ticket = TicketPage(access, limits, proxies, headers, metrics)
        admin = Admin(
            policy=policy,
            open_streams=open_streams,
            line=line,
            headers=headers,
            metrics=metrics,
        )
        streams = Streams(
            declarations=declarations,
            starter=starter,
            hub=hub,
            limits=limits,
            proxies=proxies,
            metrics=metrics,
            headers=headers,
            compression=compression,
            access=access,
            event_source_refusals=settings.http.event_source_refusals == "stream",
            open_streams=open_streams,
            turns=turns,
        )
    if intake is not None:
        events = Events(
            intake=intake,
            proxies=proxies,
            metrics=metrics,
            headers=headers,
            policy=policy,
            stall_timeout_s=settings.fanout.stall_timeout_s,
        )
    if beacon is not None:
        beacon_page = BeaconPage(beacon=beacon, proxies=proxies, metrics=metrics, headers=headers)
    return App(
        streams=streams,
        explain=explain,
        events=events,
        beacon=beacon_page,
        ticket=ticket,
        admin=admin,
        declarations=declarations,
        schemas=schemas,
        health=Health(hub),
        settings=settings.http,
        static=static_folder(),
        headers=headers,
        proxies=proxies,
        turns=turns,
    )
