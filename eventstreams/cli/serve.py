"""`eventstreams serve`: runs the gateway."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

import click
from msgspec.structs import replace

import eventstreams
from eventstreams.cli.config import read_config, read_settings
from eventstreams.cli.destination import log_summary
from eventstreams.cli.invocation import called_as
from eventstreams.cli.options import (
    FilePath,
    Number,
    Whole,
    config_option,
    data_dir_option,
    log_level_option,
)
from eventstreams.cli.problems import problems_of
from eventstreams.cli.relay_options import relay_name
from eventstreams.config.settings import RelaySettings, Settings
from eventstreams.errors import ConfigError
from eventstreams.model.catalogue import Catalogue
from eventstreams.server.logs import log_to_stderr
from eventstreams.server.serve import serve

_TLS = re.compile(r"http\.tls_(certfile|keyfile)\b")
"""The settings that flags replace, in the text of a problem."""


@click.command("serve")
@config_option
@click.option("--host", metavar="ADDRESS", help="The address to listen on.")
@click.option(
    "--port",
    type=Whole(0, 65535),
    metavar="N",
    help="The port to listen on; 0 chooses a free one.",
)
@click.option(
    "--tls-certfile",
    type=FilePath(),
    help="A certificate chain in PEM. The port then accepts only HTTPS.",
)
@click.option("--tls-keyfile", type=FilePath(), help="The private key of the certificate, in PEM.")
@data_dir_option("The folder of the embedded log.")
@click.option(
    "--demo-rate",
    type=Number(min=0),
    metavar="N",
    help="How many synthetic events to produce per second.",
)
@click.option(
    "--relay",
    metavar="URL",
    help="Follow streams of another gateway instead of producing synthetic events.",
)
@click.option(
    "--relay-contact",
    metavar="TEXT",
    help="Your contact address for the relay's User-Agent header.",
)
@click.option("--no-demo", is_flag=True, help="Produce no synthetic events.")
@click.option(
    "--workers",
    type=Whole(min=1),
    default=1,
    metavar="N",
    show_default=True,
    help="The number of worker processes; more than one needs Kafka.",
)
@click.option("--only", type=click.Choice(("gateway", "intake")), help="Serve only this part.")
@log_level_option
def command(
    *,
    config: Path | None,
    host: str | None,
    port: int | None,
    tls_certfile: str | None,
    tls_keyfile: str | None,
    data_dir: str | None,
    demo_rate: float | None,
    relay: str | None,
    relay_contact: str | None,
    no_demo: bool,
    workers: int,
    only: Literal["gateway", "intake"] | None,
    log_level: str,
) -> None:
    """Run a gateway until Ctrl-C or SIGTERM.

    Without --config it keeps an embedded log in ./data and fills the streams
    mediawiki.recentchange and mediawiki.page-create with synthetic events. Flags override the
    settings file.

    \b
    Examples:
      eventstreams serve
      eventstreams serve --port 8080 --demo-rate 200
      eventstreams serve --tls-certfile cert.pem --tls-keyfile key.pem
      eventstreams serve --relay https://stream.wikimedia.org/v2/stream/recentchange
      eventstreams serve --no-demo --data-dir /var/lib/eventstreams
      eventstreams serve --config kafka.yaml --host 0.0.0.0 --workers 2
      eventstreams serve --config kafka.yaml --only intake

    A changed catalogue is reloaded automatically, and at once on SIGHUP; so are limits and keys.
    Logs go to standard error: readable lines on a terminal, JSON otherwise.
    """
    if no_demo and demo_rate is not None:
        raise click.UsageError("--no-demo and --demo-rate cannot be used together")
    if relay_contact is not None and relay is None:
        raise click.UsageError("--relay-contact needs --relay")

    def flagged(settings: Settings) -> Settings:
        settings = _with_flags(settings, host, port, data_dir)
        settings = _with_tls(settings, tls_certfile, tls_keyfile)
        if only is not None:
            settings = replace(settings, only=only)
        settings = _with_relay(settings, relay, relay_contact)
        without_demo = no_demo or (relay is not None and demo_rate is None)
        return _with_demo(settings, no_demo=without_demo, rate=demo_rate)

    def problems(settings: Settings, catalogue: Catalogue | None) -> list[str]:
        found = problems_of(flagged(settings), catalogue)
        of_flags: list[str] = []
        if relay is not None:
            prefix = f"relays.{relay_name(relay)}."
            of_flags += [f"--relay: {p.partition(': ')[2]}" for p in found if p.startswith(prefix)]
        if tls_certfile is not None or tls_keyfile is not None:
            of_flags += [_TLS.sub(r"--tls-\1", p) for p in found if _TLS.match(p)]
        if of_flags:
            raise ConfigError(of_flags)
        return found

    settings, catalogue = read_config(config, problems)
    final = flagged(settings)
    log_to_stderr(log_level, lambda url: _banner(url, final, catalogue))
    status = serve(
        final,
        catalogue,
        Path(settings.catalogue),
        workers=workers,
        reread=lambda: flagged(read_settings(config)),
    )
    sys.exit(status)


_BANNER = """
eventstreams {version} is running. Ctrl-C stops it.

  Page   {url}/
  Log    {log}
  Try    curl -N {url}/v2/stream/{stream}
"""
_INTAKE_BANNER = """
eventstreams {version} accepts events. Ctrl-C stops it.

  Log    {log}
  Try    {program} produce --url {url} --stream {stream} '{{}}'
"""


def _banner(url: str, settings: Settings, catalogue: Catalogue) -> str:
    """Return what a terminal shows once the gateway listens."""
    public = [stream for stream in catalogue.streams.values() if stream.scope is None]
    demo = settings.demo.stream
    first = next(iter(public), next(iter(catalogue.streams.values())))
    stream = catalogue.get(demo) if demo in catalogue.names else first
    name = min((stream.name, *stream.aliases), key=len)
    for wildcard in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(wildcard, "//localhost:")
    text = _INTAKE_BANNER if settings.only == "intake" else _BANNER
    return text.format(
        version=eventstreams.__version__,
        url=url,
        stream=name,
        log=log_summary(settings.log),
        program=called_as(),
    )


def _with_demo(settings: Settings, *, no_demo: bool, rate: float | None) -> Settings:
    demo = settings.demo
    if rate is not None and demo.stream is None:
        raise click.UsageError("--demo-rate needs the setting demo.stream")
    if no_demo:
        demo = replace(demo, stream=None)
    if rate is not None:
        demo = replace(demo, rate=rate)
    return replace(settings, demo=demo)


def _with_relay(settings: Settings, url: str | None, contact: str | None) -> Settings:
    if url is None:
        return settings
    added = {relay_name(url): RelaySettings(url=url, contact=contact)}
    return replace(settings, relays={**settings.relays, **added})


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
            raise click.UsageError(f"--data-dir has no effect: log.backend is {log.backend}")
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
