"""`eventstreams check`: is a configuration right, and what would it serve?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from eventstreams.cli.config import catalogue_path, config_option, read_config
from eventstreams.cli.problems import problems_of
from eventstreams.errors import ConfigError, FiltersUnavailable
from eventstreams.fanout.cel_runtime import load_runtime
from eventstreams.legacy.checks import schema_problems
from eventstreams.model.stream import Catalogue
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.titles import findings
from eventstreams.settings import LogSettings, Settings


@click.command("check")
@config_option
def command(config: Path | None) -> None:
    """Check settings and stream catalogue; say every problem at once (exit code 2).

    Only files are read, those that the settings name too: no log is opened, no broker asked.
    Where events can be posted, each schema_title must be the title of a schema that can be used,
    and each of legacy.schemas needs a stream and a schema that fit it.
    What only loses something, such as a schema without meta.id, is a warning.

    \b
    Examples:
      eventstreams check
      eventstreams check --config /etc/eventstreams/eventstreams.yaml
    """
    settings, catalogue = read_config(config, problems_of)
    if settings.only != "gateway":
        _check_titles(settings, catalogue_path(config, settings), catalogue)
    for line in _summary(settings, catalogue):
        click.echo(line)


def _check_titles(settings: Settings, path: Path, catalogue: Catalogue) -> None:
    """Raises ConfigError."""
    repository = SchemaRepository([Path(folder) for folder in settings.schemas])
    found = list(findings(catalogue.configs.titles(), repository))
    for each in found:
        if not each.is_error:
            click.echo(f"Warning: {path}: streams.{each.stream}: {each.message}", err=True)
    problems = [
        f"{path}: streams.{each.stream}.schema_title: {each.message}"
        for each in found
        if each.is_error
    ]
    problems += schema_problems(settings.legacy.schemas, repository)
    if problems:
        raise ConfigError(problems)


def _summary(settings: Settings, catalogue: Catalogue) -> Iterator[str]:
    yield "The configuration is valid."
    yield f"listens on  {settings.http.host}:{settings.http.port}"
    yield f"log         {_log(settings.log)}"
    if settings.demo.stream and settings.demo.rate:
        yield f"demo feed   {settings.demo.rate:g} events/s to {settings.demo.stream}"
    yield f"filters     {_filters()}"
    yield f"streams     {len(catalogue.streams)}"
    for stream in catalogue.streams.values():
        aliases = f" ({', '.join(stream.aliases)})" if stream.aliases else ""
        yield f"  {stream.name}{aliases}: {', '.join(stream.topics)}"


def _filters() -> str:
    try:
        load_runtime()
    except FiltersUnavailable as error:
        return str(error)
    return "available"


def _log(log: LogSettings) -> str:
    match log.backend:
        case "sqlite":
            return f"sqlite, in {log.data_dir}"
        case "kafka":
            return f"kafka, {', '.join(log.kafka.bootstrap_servers)}"
        case "memory":
            return "memory, gone when the process ends"
