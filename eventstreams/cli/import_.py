"""`eventstreams import`: appends a file of events, one JSON object per line, to a stream's log."""

from __future__ import annotations

import sys
from typing import Any

import click

from eventstreams.cli.appending import appending
from eventstreams.cli.chunks import open_input
from eventstreams.cli.destination import find_destination
from eventstreams.cli.options import (
    FilePath,
    dry_run_option,
    from_line_option,
    stream_options,
)
from eventstreams.cli.run_append import Input, Plan, run_append


@click.command("import")
@click.argument("file", metavar="FILE|-", type=FilePath(allow_dash=True))
@stream_options
@from_line_option("an import")
@dry_run_option
def command(file: str, skip_bad: bool, from_line: int, dry_run: bool, **where: Any) -> None:
    """Append the events of a file to a stream's log.

    FILE may be -, for standard input. Each line holds one JSON object in UTF-8; blank lines are
    ignored. The import stops at the first bad line, when everything before it is in the log, and
    prints how to continue. Files of any size are read in constant memory. A gateway that runs on
    the log sends the events at once.

    Without --data-dir or --kafka, the log is that of the settings, which by default is in ./data as
    for `eventstreams serve`. The command first prints which log it appends to, or creates.

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
