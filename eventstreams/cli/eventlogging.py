"""`eventstreams eventlogging`: raw logs, error events and schemas of EventLogging."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import click

from eventstreams.cli.chunks import open_input
from eventstreams.cli.config import read_config
from eventstreams.cli.destination import log_settings
from eventstreams.cli.messages import print_message
from eventstreams.cli.options import (
    FilePath,
    append_options,
    combined,
    dry_run_option,
    from_line_option,
    skip_bad_option,
)
from eventstreams.cli.problems import problems_of
from eventstreams.cli.run_append import Input, Plan, run_append
from eventstreams.cli.schemas import base_option
from eventstreams.cli.validating import validating
from eventstreams.errors import ConfigError
from eventstreams.legacy.conversion import Converter, title_of
from eventstreams.legacy.draft3 import CAPSULE_TITLE, convert
from eventstreams.legacy.log_format import FormatError, LogFormat
from eventstreams.legacy.raw import LineConverter, error_events, raw_log
from eventstreams.schemas.document import FILE_BYTES_MAX, parse_document
from eventstreams.schemas.text import to_text
from eventstreams.schemas.tools.folder import CURRENT, SchemaFolder, open_folders
from eventstreams.schemas.uri import parse_version

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_run_options = combined(
    skip_bad_option,
    append_options,
    from_line_option("a run"),
    dry_run_option,
    click.option(
        "--print", "show", is_flag=True, help="Print the events without appending anything."
    ),
)


@click.group("eventlogging")
def command() -> None:
    """Read raw logs, errors and schemas of EventLogging.

    \b
    Examples:
      eventstreams eventlogging process '%q %{recvFrom}s %{seqId}d %D %o %u' raw.log --dry-run
      eventstreams eventlogging replay errors.ndjson
      eventstreams eventlogging convert-schema Edit edit.json config/schemas
    """


@command.command("process")
@click.argument("log_format", metavar="FORMAT")
@click.argument("file", metavar="FILE|-", type=FilePath(allow_dash=True))
@_run_options
def process(log_format: str, file: str, **options: Any) -> None:
    """Append the events of a raw log to their streams.

    FILE may be -, for standard input. FORMAT describes a line, as for eventlogging-processor:

    \b
      %q        the capsule: percent-encoded JSON that begins with ?
      %j        the capsule: JSON without spaces
      %t, %D    when it was received, as in 2026-01-31T12:00:00, in UTC
      %u        the user agent, up to a tab or the end of the line
      %{name}s  a field of the capsule without spaces
      %{name}d  the same, a whole number
      %{name}i  the same, up to a tab
      %o        ignored, without spaces
      %%        a percent sign

    A space matches any number of spaces, \\t a tab. The schemas of the capsules must be
    listed in legacy.schemas. Events are validated like posted ones.

    The run stops at the first bad line, when everything before it is in the log, and prints how to
    continue. With --skip-bad, bad lines are reported and go to the error stream. Files of any size
    are read in constant memory.

    \b
    Examples:
      eventstreams eventlogging process '%q %{recvFrom}s %{seqId}d %D %o %u' raw.log --dry-run
      eventstreams eventlogging process '%q %{recvFrom}s %{seqId}d %D %o %u' raw.log --skip-bad
      zcat raw.log.gz | eventstreams eventlogging process '%j' - --print
    """
    try:
        compiled = LogFormat(log_format)
    except FormatError as error:
        hint = "FORMAT comes before FILE; " if "%" in file else ""
        raise click.UsageError(f"{hint}FORMAT: {error}") from error
    _run(file, lambda converter, most: raw_log(compiled, converter, line_bytes_max=most), **options)


@command.command("replay")
@click.argument("file", metavar="FILE|-", type=FilePath(allow_dash=True))
@_run_options
def replay(file: str, **options: Any) -> None:
    """Append the events that error events repeat.

    Each line of FILE (or of standard input, -) is an error event, from the error stream of this
    gateway or from EventLogging. An event that is refused again counts as a bad line.

    \b
    Examples:
      curl -s "$GATEWAY/v2/stream/eventstreams.error?since=-1d&until=-0s" \\
        -H 'Accept: application/json' > errors.ndjson
      eventstreams eventlogging replay errors.ndjson --dry-run --skip-bad
      eventstreams eventlogging replay errors.ndjson
    """
    _run(file, lambda converter, most: error_events(converter, line_bytes_max=most), **options)


def _run(
    file: str,
    make: Callable[[Converter, int], LineConverter],
    *,
    skip_bad: bool,
    from_line: int,
    dry_run: bool,
    show: bool,
    config: Path | None,
    data_dir: str | None,
    kafka: str | None,
) -> None:
    settings, catalogue = read_config(config, problems_of)
    if not settings.legacy.schemas:
        raise ConfigError(["legacy.schemas is empty, so there is no schema to convert to"])
    log = log_settings(settings.log, data_dir, kafka)
    converter = Converter(settings.legacy.schemas, configs=lambda: catalogue.configs)
    convert = make(converter, log.sqlite.record_bytes_max)
    source, size = open_input(file)
    name = "stdin" if file == "-" else file
    with source:
        plan = Plan(
            log, skip_bad, dry_run or show, first_line=from_line, can_go_on=True, prints=show
        )
        sink = validating(convert, settings, catalogue, show=show)
        code = run_append(Input(name, source, size), plan, sink)
    sys.exit(code)


@command.command("convert-schema")
@click.argument("name")
@click.argument("file", metavar="FILE|-", type=FilePath(allow_dash=True))
@click.argument("folder", type=click.Path(path_type=Path))
@base_option
@click.option(
    "--version",
    default="1.0.0",
    show_default=True,
    metavar="X.Y.Z",
    help="The version of the new schema.",
)
@click.option("--dry-run", is_flag=True, help="Print the schema without writing a file.")
@click.option("--force", is_flag=True, help="Replace an existing current.yaml.")
def convert_schema(
    *,
    name: str,
    file: str,
    folder: Path,
    bases: tuple[Path, ...],
    version: str,
    dry_run: bool,
    force: bool,
) -> None:
    """Convert a schema of EventLogging to draft 7.

    FILE, or standard input (-), is the content of the wiki page Schema:NAME, as JSON or YAML. The
    result is FOLDER/analytics/legacy/name/current.yaml. It refers to the newest
    fragment/analytics/legacy/eventcapsule in FOLDER, or in a --base, which declares the fields of a
    capsule beside `event`. Notes on standard error list what was left out or added. Nothing is
    fetched.

    \b
    Examples:
      eventstreams eventlogging convert-schema Edit edit.json config/schemas --dry-run
      eventstreams eventlogging convert-schema Edit edit.json config/schemas
      eventstreams schemas materialize config/schemas
    """
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"NAME: {name!r} is not a schema name; use letters, digits, _ and -")
    if parse_version(version) is None:
        raise click.UsageError(f"--version: {version!r} is not a version such as 1.0.0")
    folders = open_folders(folder, bases)
    place = "stdin" if file == "-" else file
    source, _ = open_input(file)
    with source:
        text = _whole(source).removeprefix(b"\xef\xbb\xbf")
    is_json = text.lstrip().startswith(b"{")  # wiki pages contain tabs, which YAML does not accept
    converted = convert(
        parse_document(text, place, is_json=is_json),
        name=name,
        version=version,
        capsule_uri=_capsule_uri(folders),
        place=place,
    )
    for note in converted.notes:
        print_message(f"Note: {note}")
    written = to_text(converted.document, "yaml")
    if dry_run:
        click.echo(written, nl=False)
        return
    target = folders[0].base / title_of(name) / CURRENT
    if target.exists() and not force:
        raise click.UsageError(f"{target} already exists; use --force to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(written, "utf-8")
    click.echo(f"wrote {target}")


def _whole(source: IO[bytes]) -> bytes:
    """Return the input, up to one byte more than a schema may have. One read of a pipe may return
    less."""
    parts: list[bytes] = []
    left = FILE_BYTES_MAX + 1
    while left and (part := source.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _capsule_uri(folders: Sequence[SchemaFolder]) -> str:
    """Return the URI of the newest capsule fragment. Raises click.UsageError."""
    for folder in folders:
        versions = folder.versions(CAPSULE_TITLE)
        if versions:
            return f"/{CAPSULE_TITLE}/{versions[-1]}"
    raise click.UsageError(
        f"{folders[0].base} has no {CAPSULE_TITLE}; copy it from config/schemas, or name a --base"
    )
