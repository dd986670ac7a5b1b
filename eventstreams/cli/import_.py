"""`eventstreams import`: a file of events, one JSON object a line, into a stream's log."""

from __future__ import annotations

import sys
from typing import Any

import click

from eventstreams.cli.appending import appending
from eventstreams.cli.chunks import open_input
from eventstreams.cli.destination import destination_options, find_destination
from eventstreams.cli.paths import FilePath
from eventstreams.cli.run_append import Input, Plan, run_append


@click.command("import")
@click.argument("file", metavar="FILE|-", type=FilePath(allow_dash=True))
@destination_options
@click.option(
    "--from-line",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Pass over the lines before this one, as after an import that stopped.",
)
@click.option("--dry-run", is_flag=True, help="Check every line, append nothing.")
def command(file: str, skip_bad: bool, from_line: int, dry_run: bool, **where: Any) -> None:
    """Append the events of FILE (or of standard input, -) to a stream's log.

    Each line holds one JSON object in UTF-8; blank lines are ignored. The import stops at the
    first bad line, when everything before it is in the log, and says how to go on. Files of any
    size are read in constant memory. A gateway that runs on the log sends the events at once.

    \b
    Examples:
      eventstreams import events.ndjson --stream recentchange --dry-run
      eventstreams import events.ndjson --stream recentchange
      zcat events.ndjson.gz | eventstreams import - --stream test --timestamp now
      eventstreams import events.ndjson --stream test --kafka localhost:9092
    """
    destination = find_destination(**where)
    source, size = open_input(file)
    name = "stdin" if file == "-" else file
    with source:
        plan = Plan(destination.log, skip_bad, dry_run, first_line=from_line, can_go_on=True)
        code = run_append(Input(name, source, size), plan, appending(destination))
    sys.exit(code)
