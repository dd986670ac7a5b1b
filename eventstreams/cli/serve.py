"""`eventstreams serve`: the gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click
from msgspec.structs import replace

from eventstreams.cli.config import (
    catalogue_path,
    config_option,
    read_config,
    read_settings,
)
from eventstreams.cli.paths import FilePath
from eventstreams.cli.problems import problems_of
from eventstreams.logs import log_to_stderr
from eventstreams.server.serve import serve
from eventstreams.settings import Settings

_LEVELS = ("debug", "info", "warning", "error")


@click.command("serve")
@config_option
@click.option("--host", metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="0: a free one is chosen.")
@click.option("--tls-certfile", type=FilePath(), help="A certificate in PEM: https, no http.")
@click.option("--tls-keyfile", type=FilePath(), help="Its private key in PEM.")
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
    tls_certfile: str | None,
    tls_keyfile: str | None,
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
      eventstreams serve --tls-certfile cert.pem --tls-keyfile key.pem
      eventstreams serve --no-demo --data-dir /var/lib/eventstreams
      eventstreams serve --config kafka.yaml --host 0.0.0.0 --workers 2
      eventstreams serve --config kafka.yaml --only intake

    A changed catalogue is read again by itself, at once on SIGHUP; with it, limits and keys.
    """
    if no_demo and demo_rate is not None:
        raise click.UsageError("--no-demo and --demo-rate contradict each other")

    def flagged(settings: Settings) -> Settings:
        settings = _with_flags(settings, host, port, data_dir)
        settings = _with_tls(settings, tls_certfile, tls_keyfile)
        if only is not None:
            settings = replace(settings, only=only)
        return _with_demo(settings, no_demo=no_demo, rate=demo_rate)

    settings, catalogue = read_config(
        config, lambda settings, catalogue: problems_of(flagged(settings), catalogue)
    )
    log_to_stderr(log_level)
    status = serve(
        flagged(settings),
        catalogue,
        catalogue_path(config, settings),
        workers=workers,
        reread=lambda: flagged(read_settings(config)),
    )
    sys.exit(status)


def _with_demo(settings: Settings, *, no_demo: bool, rate: float | None) -> Settings:
    demo = settings.demo
    if rate is not None and demo.stream is None:
        raise click.UsageError("--demo-rate needs the setting demo.stream")
    if no_demo:
        demo = replace(demo, stream=None)
    if rate is not None:
        demo = replace(demo, rate=rate)
    return replace(settings, demo=demo)


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


def _with_tls(settings: Settings, certfile: str | None, keyfile: str | None) -> Settings:
    http = settings.http
    http = replace(
        http,
        tls_certfile=certfile or http.tls_certfile,
        tls_keyfile=keyfile or http.tls_keyfile,
    )
    return replace(settings, http=http)
