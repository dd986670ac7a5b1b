"""`eventstreams serve`: the gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click
from msgspec.structs import replace

from eventstreams.cli.config import catalogue_path, config_option, read_config
from eventstreams.cli.paths import FilePath
from eventstreams.logs import log_to_stderr
from eventstreams.server.serve import serve
from eventstreams.settings import Settings

_LEVELS = ("debug", "info", "warning", "error")


@click.command("serve")
@config_option
@click.option("--host", metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="0: a free one is chosen.")
@click.option(
    "--data-dir", type=FilePath(file_okay=False), help="Where the embedded log keeps its file."
)
@click.option(
    "--demo-rate", type=click.FloatRange(min=0), metavar="N", help="Synthetic events a second."
)
@click.option("--no-demo", is_flag=True, help="No synthetic events.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    show_default=True,
    help="Processes that serve; more than one needs Kafka.",
)
@click.option("--only", type=click.Choice(("gateway", "intake")), help="Serve this part alone.")
@click.option(
    "--log-level", type=click.Choice(_LEVELS), default="info", show_default=True, help="Of stderr."
)
def command(
    *,
    config: Path | None,
    host: str | None,
    port: int | None,
    data_dir: str | None,
    demo_rate: float | None,
    no_demo: bool,
    workers: int,
    only: Literal["gateway", "intake"] | None,
    log_level: str,
) -> None:
    """Run gateway and intake until it is told to stop (Ctrl-C or SIGTERM).

    Without --config it keeps an embedded log in ./data and fills the stream
    mediawiki.recentchange with synthetic events. Flags win over the settings file.

    \b
    Examples:
      eventstreams serve
      eventstreams serve --port 8080 --demo-rate 200
      eventstreams serve --no-demo --data-dir /var/lib/eventstreams
      eventstreams serve --config kafka.yaml --host 0.0.0.0 --workers 2
      eventstreams serve --config kafka.yaml --only intake

    A changed catalogue is read again by itself, at once on SIGHUP.
    """
    settings, catalogue = read_config(config)
    if no_demo and demo_rate is not None:
        raise click.UsageError("--no-demo and --demo-rate contradict each other")
    if demo_rate is not None and settings.demo.stream is None:
        raise click.UsageError("--demo-rate needs the setting demo.stream")
    settings = _with_flags(settings, host, port, data_dir)
    if only is not None:
        settings = replace(settings, only=only)
    if no_demo:
        settings = replace(settings, demo=replace(settings.demo, stream=None))
    if demo_rate is not None:
        settings = replace(settings, demo=replace(settings.demo, rate=demo_rate))
    log_to_stderr(log_level)
    sys.exit(serve(settings, catalogue, catalogue_path(config, settings), workers=workers))


def _with_flags(
    settings: Settings, host: str | None, port: int | None, data_dir: str | None
) -> Settings:
    http, log = settings.http, settings.log
    if host is not None:
        http = replace(http, host=host)
    if port is not None:
        http = replace(http, port=port)
    if data_dir is not None:
        if log.backend != "sqlite":
            raise click.UsageError(f"--data-dir has no use: log.backend is {log.backend}")
        log = replace(log, data_dir=data_dir)
    return replace(settings, http=http, log=log)
