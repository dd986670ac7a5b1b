"""`eventstreams init`: writes a first configuration."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from eventstreams.cli.invocation import called_as
from eventstreams.cli.new_files import check_absent, schema_file, write_files, write_schema
from eventstreams.cli.options import FilePath
from eventstreams.schemas.infer import infer_event_schema

_STREAM = "my.events"
_TITLE = "my/events"
_SAMPLE = {"message": "hello", "count": 1}
_SETTINGS = """\
# Settings of the gateway. Every setting is optional; docs/settings.md describes all of them with
# their defaults. Paths are relative to this file. After a change:
#
#   eventstreams check --config eventstreams.yaml

catalogue: streams.yaml        # which streams can be read and posted
schemas: [schemas]             # folders of schemas

http:
  host: 127.0.0.1              # 0.0.0.0 to be reached from other machines; then set limits and keys
  port: 8092

log:
  backend: sqlite              # embedded; kafka reads and appends to topics of brokers
  data_dir: data               # the folder of the log
  sqlite:
    retention_age_s: 604800    # 7 days; null keeps events forever

limits:
  client_ip_connections: null  # streams for each client address; null: any number

intake:
  error_stream: null           # a stream for events that were refused; it needs the schema `error`

# access:
#   producer_keys: producers.yaml   # who may post; without it, everyone who can reach the port
"""
_STREAMS = f"""\
# The streams that can be read and posted. `eventstreams new-stream` adds one from sample events.

streams:
  {_STREAM}:
    description: An example stream.
    schema_title: {_TITLE}     # in the folder schemas; events must be valid
"""


@click.command("init")
@click.argument("folder", metavar="DIR", type=FilePath(path_type=Path))
@click.option("--force", is_flag=True, help="Replace files that exist.")
def command(folder: Path, force: bool) -> None:
    """Write settings, a catalogue and a schema to DIR.

    The settings have comments, and the catalogue has one stream. Nothing that exists is changed
    unless --force is given. The commands to continue with are printed.

    \b
    Examples:
      eventstreams init weather
      eventstreams init .
    """
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"{folder} is not a directory")
    schema = infer_event_schema([_SAMPLE], title=_TITLE, description="An example event")
    files = {folder / "eventstreams.yaml": _SETTINGS, folder / "streams.yaml": _STREAMS}
    check_absent([*files, schema_file(folder / "schemas", _TITLE)], force=force)
    write_files(files, force=force)
    write_schema(folder / "schemas", schema, force=force)
    program, config = called_as(), shlex.quote(str(folder / "eventstreams.yaml"))
    click.echo(
        f"wrote {folder}/eventstreams.yaml (settings), streams.yaml (the stream {_STREAM}) and "
        "schemas/ (its schema)\n\nNext:\n\n"
        f"  {program} serve --config {config}\n\nand in another terminal:\n\n"
        f"  {program} tail {_STREAM}\n"
        f"  {program} produce --stream {_STREAM} '{json.dumps(_SAMPLE)}'\n"
        f"  {program} new-stream NAME --from sample.json --config {config}"
    )
