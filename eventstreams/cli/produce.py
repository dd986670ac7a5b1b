"""`eventstreams produce`: events from standard input or the command line into a stream's log."""

from __future__ import annotations

import sys
from typing import Any

import click

from eventstreams.cli.appending import appending
from eventstreams.cli.chunks import open_input
from eventstreams.cli.destination import destination_options, find_destination
from eventstreams.cli.lines import BadDocument, parse_document
from eventstreams.cli.run_append import Input, Plan, run_append


@click.command("produce")
@click.argument("documents", nargs=-1, metavar="[JSON]...")
@destination_options
def command(documents: tuple[str, ...], skip_bad: bool, **where: Any) -> None:
    """Append events to a stream's log: the JSON objects given, or standard input line by line.

    A line is appended as soon as it is read, so a program that writes events can be piped in.
    Ctrl-D ends typing.

    \b
    Examples:
      eventstreams produce --stream test '{"hello": "world"}'
      my-program | eventstreams produce --stream test
      eventstreams produce --stream test --kafka localhost:9092 < events.ndjson
    """
    destination = find_destination(**where)
    plan = Plan(destination.log, skip_bad)
    if documents:
        if not skip_bad:
            _check(documents)
        sys.exit(run_append(Input("argument", list(documents)), plan, appending(destination)))
    source, _ = open_input("-")
    if source.isatty():
        click.echo("one JSON object a line; Ctrl-D ends", err=True)
    with source:
        code = run_append(Input("stdin", source), plan, appending(destination))
    sys.exit(code)


def _check(documents: tuple[str, ...]) -> None:
    """They are all here already: better none than some are appended."""
    for number, document in enumerate(documents, start=1):
        try:
            parse_document(document.encode("utf-8", "surrogateescape"))
        except BadDocument as error:
            raise click.UsageError(f"argument {number}: {error}") from error
