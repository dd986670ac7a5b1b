"""`eventstreams verify`: checks that a gateway keeps the promises that clients rely on."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

import eventstreams
from eventstreams.cli.messages import print_message
from eventstreams.cli.options import FilePath, Number, Option, Whole
from eventstreams.cli.progress import Progress
from eventstreams.cli.verify_target import (
    Intake,
    name_streams,
    parse_headers,
    parse_place,
    read_test_event,
    require_streams,
    stop_by_command,
    stop_by_signal,
    trusting,
)
from eventstreams.model.visible import visible
from eventstreams.verify import report
from eventstreams.verify.registry import CHECKS, UnknownCheck, choose
from eventstreams.verify.runner import Result, run
from eventstreams.verify.target import Patience, Target
from eventstreams.verify.wire import Client

_INTAKE_PATH = "/v1/events"
_AT_THE_GATEWAY = "at the gateway"
_CHECK_S = 150.0
_WIDTH_MAX = 120


def _list_checks(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or ctx.resilient_parsing:
        return
    for check in CHECKS:
        click.echo(f"{check.name}: {check.title}.\n    {check.why}")
        if check.upstream:
            click.echo(f"    EventStreams: {check.upstream}")
    ctx.exit()


def _seconds(name: str, variable: str, default: float, text: str, *, least: float) -> Option:
    return click.option(
        name,
        variable,
        type=Number(min=least),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


@click.command("verify")
@click.argument("url", metavar="URL")
@click.option(
    "--streams",
    metavar="NAME[,NAME...]",
    help="The streams to check; two of different topics allow the most checks.",
)
@click.option(
    "--produce",
    is_flag=False,
    flag_value=_AT_THE_GATEWAY,
    metavar="[URL]",
    help="Post test events to this URL, by default to /v1/events of the gateway.",
)
@click.option(
    "--produce-stream",
    metavar="NAME",
    help="The stream of the test events, not an alias.  [default: the first of --streams]",
)
@click.option(
    "--produce-event",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="A test event as JSON, for a stream whose schema is not /test/event/1.0.0.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of a table.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Run only this check or group; may be repeated."
)
@click.option("--explain", is_flag=True, help="Explain why each check matters.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_checks,
    help="Print all checks and why they matter.",
)
@_seconds("--time", "budget_s", 600.0, "How long the whole run may take.", least=1)
@_seconds(
    "--event-time",
    "event_s",
    Patience.event_s,
    "How long an event may take from the log to a client.",
    least=0.1,
)
@_seconds(
    "--heartbeat-time",
    "heartbeat_s",
    Patience.heartbeat_s,
    "How long a quiet stream may be silent.",
    least=0.1,
)
@click.option(
    "--requests",
    "requests_max",
    type=Whole(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="How many requests the run may send.",
)
@_seconds("--pause", "pause_s", 0.2, "How long to wait before each request.", least=0)
@click.option(
    "--contact",
    default="",
    metavar="TEXT",
    help="Your contact address or URL for the User-Agent, which Wikimedia asks for.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Send this with every request, for example a token; may be repeated.",
)
@click.option(
    "--cacert",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Trust the certificates in this file.",
)
@click.option(
    "--drain-pid",
    type=Whole(min=2),
    metavar="PID",
    help="At the end, stop this process of the gateway with SIGTERM and check how streams end.",
)
@click.option(
    "--drain-command",
    metavar="COMMAND",
    help="At the end, stop the gateway with this command, such as 'systemctl stop eventstreams'.",
)
def command(
    *,
    url: str,
    streams: str | None,
    produce: str | None,
    produce_stream: str | None,
    produce_event: Path | None,
    as_json: bool,
    only: tuple[str, ...],
    explain: bool,
    budget_s: float,
    event_s: float,
    heartbeat_s: float,
    requests_max: int,
    pause_s: float,
    contact: str,
    headers: tuple[str, ...],
    cacert: Path | None,
    drain_pid: int | None,
    drain_command: str | None,
) -> None:
    """Check that a gateway does what clients rely on.

    Works from outside with this gateway, with Wikimedia's EventStreams and with similar gateways,
    directly or through a proxy. Each check passes, fails, is skipped, or `differs`: the gateway
    does what is right for clients, and deliberately differs from EventStreams. Exit code 0: no
    check failed. 1: at least one failed, or all were skipped. 2: wrong usage.

    Without --produce, checks that need new events are skipped or wait for some. Test events are
    marked as canary events. Requests are sent one after another, with a User-Agent that names this
    program. docs/verify.md lists what is checked and why.

    \b
    Examples:
      eventstreams verify http://127.0.0.1:8092 --streams eventstreams.test --produce
      eventstreams verify https://stream.wikimedia.org --streams recentchange --contact me@a.org
      eventstreams verify http://127.0.0.1:8092/v2/stream/test --only resume --only gaps
      eventstreams verify http://127.0.0.1:8092 --streams test --json > report.json
    """
    if drain_pid is not None and drain_command is not None:
        raise click.UsageError("Use --drain-pid or --drain-command, not both.")
    try:
        checks = choose(only)
    except UnknownCheck as error:
        raise click.UsageError(f"--only: {error}") from error
    if not contact.isascii() or not contact.isprintable():
        raise click.UsageError(f"--contact: {contact!r} is not printable ASCII, as headers are")
    place = parse_place(url, streams)
    sent = parse_headers([*headers, f"User-Agent: {_user_agent(contact)}"])
    tls = trusting(cacert)
    client = Client(
        host=place.host,
        port=place.port,
        tls=tls if place.scheme == "https" else None,
        headers=sent,
        requests_max=requests_max,
        pause_s=pause_s,
    )
    intake = place.base + _INTAKE_PATH if produce == _AT_THE_GATEWAY else produce
    drain = None if drain_pid is None else stop_by_signal(drain_pid)
    target = Target(
        client=client,
        root=place.root,
        streams=place.streams,
        patience=Patience(event_s=event_s, heartbeat_s=heartbeat_s),
        post=None if intake is None else Intake(url=intake, headers=sent, tls=tls),
        template=read_test_event(produce_event, produce_stream or place.first_stream),
        drain=drain if drain_command is None else stop_by_command(drain_command),
    )
    progress = Progress(size=None)
    began = datetime.now(UTC)

    async def whole_run() -> list[Result]:
        if not target.streams:
            await name_streams(target)
        start = time.monotonic()
        await require_streams(target, budget_s)
        return await run(
            target,
            checks,
            check_s=_CHECK_S,
            budget_s=budget_s - (time.monotonic() - start),
            on_start=lambda check: progress.step(f"{check.name}: {check.title}"),
        )

    try:
        results = asyncio.run(whole_run())
    finally:
        progress.clear()
    if as_json:
        document = report.document(
            results, url=url, streams=place.streams, began=began, requests=client.requests
        )
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, _WIDTH_MAX)
        for line in report.table(results, width=width, explains=explain):
            click.echo(visible(line))
    outcomes = {result.verdict.outcome for result in results}
    if outcomes == {"skipped"}:
        print_message("Error: nothing of this gateway could be checked")
    if "fail" in outcomes or outcomes == {"skipped"}:
        sys.exit(1)


def _user_agent(contact: str) -> str:
    return f"eventstreams-verify/{eventstreams.__version__}" + (f" ({contact})" if contact else "")
