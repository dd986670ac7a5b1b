"""`eventstreams export`: writes a part of a stream to a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from eventstreams.cli.export_files import Writer, whole_file, writer_of
from eventstreams.cli.options import (
    FilePath,
    followed_selection,
    followed_stream,
    followed_token_option,
    followed_url_option,
)
from eventstreams.cli.progress import Progress
from eventstreams.cli.tail import now_ms, stream_url
from eventstreams.cli.tail_follow import COMPLETE, Tail
from eventstreams.cli.tail_output import as_json
from eventstreams.errors import EventStreamsError


@click.command("export")
@followed_stream
@click.option(
    "-o",
    "--output",
    required=True,
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="The file. Its name determines the format: .ndjson, .ndjson.gz, .ndjson.zst or .parquet.",
)
@click.option(
    "--since",
    default="earliest",
    show_default=True,
    metavar="TIME",
    help="Begin at this time: ISO 8601, milliseconds since 1970, or a time ago such as -7d.",
)
@click.option(
    "--until",
    default="now",
    show_default=True,
    metavar="TIME",
    help="End before the first event at or after this time.",
)
@followed_selection
@click.option("--no-canary", is_flag=True, help="Leave out canary events.")
@followed_url_option
@followed_token_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(
    *,
    where: str,
    output: Path,
    since: str,
    until: str,
    filter_: str | None,
    fields: str | None,
    no_canary: bool,
    url: str,
    token_file: Path | None,
    force: bool,
) -> None:
    """Write the events of a stream between two times to FILE.

    After a disconnect it reconnects and resumes after the last event. FILE appears when it is
    complete: until then, events are in FILE.part, which is removed when the export fails and
    overwritten by the next one. Progress, gaps and errors go to standard error.

    NDJSON has one event on each line. Parquet, which needs `pip install 'eventstreams[parquet]'`,
    has the columns dt, stream, topic, partition and offset, which are empty if --fields leaves out
    meta, and the whole event as JSON in the column event.

    \b
    Examples:
      eventstreams export recentchange -o changes.ndjson.gz
      eventstreams export recentchange --since -1d --filter "event.wiki == 'dewiki'" -o de.parquet
      eventstreams export test --since 2026-01-01 --until 2026-02-01 -o january.ndjson.zst
    """
    parameters = {
        "since": now_ms() if since == "now" else since,
        "until": now_ms() if until == "now" else until,
        "filter": filter_,
        "fields": fields,
        "canary": "false" if no_canary else None,
    }
    streams = stream_url(where, url, parameters)
    make = writer_of(output)
    progress = Progress(size=None)
    try:
        with whole_file(output, force=force) as file:
            counted = _Counted(make(file), progress)
            tail = Tail(
                url=streams,
                output=counted,
                render=as_json,
                report=lambda text: None if text == COMPLETE else progress.print_line(text),
                state=None,
                count=None,
                token_file=token_file,
                has_end=True,
                command="export",
            )
            asyncio.run(tail.run())
            counted.close()
            size = file.tell()
    except KeyboardInterrupt:
        progress.clear()
        raise EventStreamsError(f"interrupted; {output} was not written") from None
    finally:
        progress.clear()
    events = f"{counted.count:,} event{'' if counted.count == 1 else 's'}"
    click.echo(f"exported {events} to {output} ({size:,} bytes, {progress.seconds:.1f} s)")


class _Counted:
    """Counts the events that are written."""

    def __init__(self, writer: Writer, progress: Progress) -> None:
        self.count = 0
        self.close = writer.close
        self._writer = writer
        self._progress = progress

    def write(self, line: bytes) -> None:
        self._writer.write(line)
        self.count += 1
        self._progress.show(self.count, 0)
