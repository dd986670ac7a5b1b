"""`eventstreams produce`: posts events to a running gateway, or appends them to a log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from eventstreams.cli.appending import appending
from eventstreams.cli.chunks import open_input
from eventstreams.cli.destination import find_destination
from eventstreams.cli.lines import BadDocument, parse_document
from eventstreams.cli.messages import print_message
from eventstreams.cli.options import stream_options, token_file_option, url_option
from eventstreams.cli.posting import Target, posting
from eventstreams.cli.run_append import Input, Plan, run_append
from eventstreams.cli.sink import SinkMaker

_OF_LOGS = ("topic", "partition", "timestamp", "config")
"""Options that have a meaning only for a log."""


@click.command("produce")
@click.argument("documents", nargs=-1, metavar="[JSON]...")
@url_option("The gateway to use.")
@token_file_option("A file with the key of a producer, if the gateway requires one.")
@stream_options
@click.pass_context
def command(
    context: click.Context,
    /,
    documents: tuple[str, ...],
    url: str,
    token_file: Path | None,
    skip_bad: bool,
    **where: Any,
) -> None:
    """Send events to a stream.

    The events are the JSON objects given as arguments, or the lines of standard input. They are
    posted to the running gateway at --url, which validates them. Events that do not name their
    stream and schema get the stream and its newest schema. With --data-dir or --kafka, events are
    appended unchanged to a log, without a gateway.

    A line is sent as soon as it is read, so the output of a program can be piped in. When typing,
    end with Ctrl-D.

    \b
    Examples:
      eventstreams produce --stream test '{"test": "hello"}'
      my-program | eventstreams produce --stream test --url https://stream.example.org
      eventstreams produce --stream test --data-dir /var/lib/eventstreams < events.ndjson
      eventstreams produce --stream test --kafka localhost:9092 < events.ndjson
    """
    plan, sink = _target(context, url, token_file, skip_bad, where)
    if documents:
        if not skip_bad:
            _check(documents)
        sys.exit(run_append(Input("argument", list(documents)), plan, sink))
    source, _ = open_input("-")
    if source.isatty():
        print_message("one JSON object per line; Ctrl-D to finish")
    with source:
        code = run_append(Input("stdin", source), plan, sink)
    sys.exit(code)


def _target(
    context: click.Context, url: str, token_file: Path | None, skip_bad: bool, where: dict[str, Any]
) -> tuple[Plan, SinkMaker]:
    """Return how to run, and the sink. Raises ConfigError, click.UsageError."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source is not click.core.ParameterSource.DEFAULT

    if is_given("data_dir") or is_given("kafka"):
        for_gateways = [name for name in ("url", "token_file") if is_given(name)]
        if context.get_parameter_source("url") is click.core.ParameterSource.ENVIRONMENT:
            for_gateways.remove("url")
        if for_gateways:
            name = for_gateways[0].replace("_", "-")
            raise click.UsageError(f"--{name} has no effect with --data-dir or --kafka")
        destination = find_destination(**where)
        return Plan(destination.log, skip_bad), appending(destination)
    for name in _OF_LOGS:
        if is_given(name):
            raise click.UsageError(
                f"--{name} needs --data-dir or --kafka; otherwise the gateway at {url} decides"
            )
    try:
        target = Target(url, where["stream"], token_file)
    except OSError as error:
        raise click.UsageError(f"--token-file: {token_file}: {error.strerror or error}") from error
    return Plan(None, skip_bad, gateway=target.base), posting(target)


def _check(documents: tuple[str, ...]) -> None:
    """Check all documents before any is sent."""
    for number, document in enumerate(documents, start=1):
        try:
            parse_document(document.encode("utf-8", "surrogateescape"))
        except BadDocument as error:
            raise click.UsageError(f"argument {number}: {error}") from error
