"""`eventstreams check`: checks a configuration and shows what it would serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from eventstreams.cli.config import read_config, shipped_config
from eventstreams.cli.destination import log_summary
from eventstreams.cli.messages import print_message
from eventstreams.cli.options import config_option
from eventstreams.cli.problems import problems_of
from eventstreams.config.settings import Settings
from eventstreams.config.validation import advice
from eventstreams.config.yaml_file import located
from eventstreams.errors import ConfigError, FiltersUnavailable
from eventstreams.filters.cel import load_runtime
from eventstreams.legacy.checks import schema_problems
from eventstreams.model.catalogue import Catalogue
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.titles import findings


@click.command("check")
@config_option
def command(config: Path | None) -> None:
    """Check settings and catalogue.

    All problems are reported at once (exit code 2). Only files are read, including those that the
    settings name: no log is opened, and no broker is contacted. Each problem has its file and line.
    Where events can be posted, each schema_title must be the title of a schema that can be used,
    and each of legacy.schemas needs a stream and a schema that fit it. Folders of schemas must
    exist, and ports must differ.

    Warnings do not change the exit code: a schema without meta.id, or a gateway that other machines
    can reach without limits for its clients or keys for producers.

    \b
    Examples:
      eventstreams check
      eventstreams check --config /etc/eventstreams/eventstreams.yaml
    """
    settings, catalogue = read_config(config, problems_of)
    path = config or shipped_config()
    repository = SchemaRepository([Path(folder) for folder in settings.schemas])
    if settings.only != "gateway":
        _check_titles(settings, path, catalogue, repository)
    _warn(located(path, advice(settings)))
    for line in (*_sources(config, settings, repository), *_summary(settings, catalogue)):
        click.echo(line)


def _check_titles(
    settings: Settings, path: Path, catalogue: Catalogue, repository: SchemaRepository
) -> None:
    """Check that streams have usable schemas. Raises ConfigError."""
    missing = [
        f"schemas[{n}]: there is no folder {folder}"
        for n, folder in enumerate(settings.schemas)
        if not Path(folder).is_dir()
    ]
    if missing and any(catalogue.configs.titles().values()):
        raise ConfigError(located(path, missing))
    streams = Path(settings.catalogue)
    found = list(findings(catalogue.configs.titles(), repository))
    _warn(located(streams, (f"streams.{f.stream}: {f.message}" for f in found if not f.is_error)))
    wrong = [f"streams.{f.stream}.schema_title: {f.message}" for f in found if f.is_error]
    problems = located(streams, wrong)
    problems += located(path, schema_problems(settings.legacy.schemas, repository))
    if problems:
        raise ConfigError(problems)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        print_message(f"Warning: {line}")


def _sources(
    config: Path | None, settings: Settings, repository: SchemaRepository
) -> Iterator[str]:
    """Yield where the configuration comes from."""
    path = config or shipped_config()
    yield "The configuration is valid."
    origin = "--config" if config else "shipped with eventstreams; --config names another"
    yield f"settings    {path} ({origin})"
    yield f"catalogue   {settings.catalogue} (setting catalogue)"
    titles = {uri.title for uri in repository.uris()}
    for folder in settings.schemas:
        yield f"schemas     {folder} (setting schemas)"
    yield f"            {len(titles)} schema{'' if len(titles) == 1 else 's'}"


def _summary(settings: Settings, catalogue: Catalogue) -> Iterator[str]:
    yield f"listens on  {settings.http.host}:{settings.http.port}"
    yield f"log         {log_summary(settings.log)}"
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
