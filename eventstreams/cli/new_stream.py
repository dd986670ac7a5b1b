"""`eventstreams new-stream`: declares a stream whose schema is inferred from sample events."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, cast

import click

from eventstreams.cli.config import read_settings
from eventstreams.cli.invocation import called_as
from eventstreams.cli.lines import BadDocument, parse_document
from eventstreams.cli.new_files import replace_file, schema_file, write_schema
from eventstreams.cli.options import FilePath
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.catalogue_edit import with_stream
from eventstreams.config.yaml_file import read_yaml
from eventstreams.errors import ConfigError
from eventstreams.model.stream_config import NAME
from eventstreams.schemas.infer import infer_event_schema
from eventstreams.schemas.uri import is_title

_SAMPLES_MAX = 10_000
_COLUMNS = 4


@click.command("new-stream")
@click.argument("name")
@click.option(
    "--from",
    "sample",
    required=True,
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Sample events: a JSON object, a list of them, or one on each line.",
)
@click.option(
    "--config",
    type=FilePath(path_type=Path),
    default="eventstreams.yaml",
    show_default=True,
    metavar="FILE",
    help="The settings whose catalogue and schemas get the stream.",
)
@click.option("--title", help="The title of the schema.  [default: NAME with / for .]")
@click.option("--description", help="What the stream is about.")
@click.option("--force", is_flag=True, help="Replace the schema if it exists.")
def command(
    *,
    name: str,
    sample: Path,
    config: Path,
    title: str | None,
    description: str | None,
    force: bool,
) -> None:
    """Declare a stream by sample events.

    The stream NAME is added to the catalogue, with a schema inferred from the samples.

    Fields that all samples have are required. Numbers may have decimals, even if those of the
    samples have none. A string field whose values are all times, dates, UUIDs or web addresses gets
    that format. Nested objects and lists are described as well.

    The schema is written to the first folder of schemas, as current.yaml and as version 1.0.0. To
    change it, edit current.yaml and run `eventstreams schemas materialize`. A running gateway reads
    the new stream without a restart.

    \b
    Examples:
      eventstreams new-stream orders --from order.json
      eventstreams new-stream shop.orders --from orders.ndjson --config /etc/eventstreams/s.yaml
    """
    title = title or name.replace(".", "/")
    if not NAME.fullmatch(name) or not is_title(title):
        raise click.UsageError(
            f"{name!r} is not the name of a stream: use letters, digits, '.', '_' and '-'"
            if not NAME.fullmatch(name)
            else f"--title: {title!r} is not the title of a schema, such as shop/order"
        )
    samples = _samples(sample)
    if not config.is_file():
        raise click.UsageError(
            f"there is no file {config}; `eventstreams init` makes one, and --config names another"
        )
    settings = read_settings(config)
    if not settings.schemas:
        raise ConfigError([f"{config}: schemas: names no folder"])
    catalogue_file = Path(settings.catalogue)
    catalogue = load_catalogue(catalogue_file)
    folder = Path(settings.schemas[0])
    is_declared = name in catalogue.names
    problems = [f"{catalogue_file}: streams.{name}: already exists"] if is_declared else []
    if schema_file(folder, title).exists():
        problems.append(f"{schema_file(folder, title)}: exists; --force replaces it")
    if problems and not force:
        raise ConfigError(problems)
    about = description or f"Events of {name}"
    entry = {"description": about, "schema_title": title}
    text = (
        None if is_declared else with_stream(catalogue_file, read_yaml(catalogue_file), name, entry)
    )
    folder.mkdir(parents=True, exist_ok=True)
    schema = infer_event_schema(samples, title=title, description=about)
    write_schema(folder, schema, force=force)
    if text is not None:
        replace_file(catalogue_file, text)
    load_catalogue(catalogue_file)
    one = _without_meta(samples[0])
    columns = [key for key, value in one.items() if not isinstance(value, dict | list)]
    program, settings_file = called_as(), shlex.quote(str(config))
    click.echo(
        f"wrote {schema_file(folder, title)}, inferred from {len(samples)} "
        f"sample{'' if len(samples) == 1 else 's'}, with version 1.0.0\n"
        + (
            f"{name} is in {catalogue_file} already"
            if is_declared
            else f"added {name} to {catalogue_file}"
        )
        + f"\nTo choose the columns of the page, add to {name} there, for example:\n"
        f"  display_fields: {json.dumps(columns[:_COLUMNS], ensure_ascii=False)}\n\nNext:\n\n"
        f"  {program} check --config {settings_file}\n"
        f"  {program} serve --config {settings_file}      (if it is not running yet)\n"
        f"  {program} tail {name}\n"
        f"  {program} produce --stream {name} " + shlex.quote(json.dumps(one, ensure_ascii=False))
    )


def _samples(path: Path) -> list[dict[str, Any]]:
    """Return the sample events of a file. Raises click.UsageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"--from: {path}: {error.strerror or error}") from error
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return _of_lines(path, data)
    events = cast("list[Any]", document) if isinstance(document, list) else [document]
    wrong = [n for n, event in enumerate(events, start=1) if not isinstance(event, dict)]
    if wrong or not events:
        what = f"event {wrong[0]} is not a JSON object" if wrong else "holds no event"
        raise click.UsageError(f"--from: {path}: {what}")
    return events[:_SAMPLES_MAX]


def _of_lines(path: Path, data: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip() and len(found) < _SAMPLES_MAX:
            try:
                found.append(parse_document(line))
            except BadDocument as error:
                raise click.UsageError(f"--from: {path}:{number}: {error}") from error
    if not found:
        raise click.UsageError(f"--from: {path}: holds no event")
    return found


def _without_meta(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("$schema", "meta")}
