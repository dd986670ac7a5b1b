"""Defines the arguments and options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Option = Callable[[Any], Any]
"""A decorator that adds an option to a command."""


class Whole(click.IntRange):
    """A whole number; click would call it an integer range."""

    name = "whole number"


class Number(click.FloatRange):
    name = "number"


class FilePath(click.Path):
    """A path that the operating system accepts; click does not refuse NUL characters."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in os.fspath(value):
            self.fail(f"{value!a} is not a path: it contains a NUL character", param, ctx)
        return super().convert(value, param, ctx)


def combined(*options: Option) -> Option:
    """Return a decorator that adds these options, in their order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def url_option(text: str) -> Option:
    return click.option(
        "--url",
        envvar="EVENTSTREAMS_URL",
        default="http://127.0.0.1:8092",
        show_default=True,
        show_envvar=True,
        metavar="BASE",
        help=text,
    )


def token_file_option(text: str) -> Option:
    return click.option("--token-file", type=FilePath(path_type=Path), metavar="FILE", help=text)


def data_dir_option(text: str) -> Option:
    return click.option("--data-dir", type=FilePath(file_okay=False), help=text)


def kafka_option(text: str) -> Option:
    return click.option("--kafka", metavar="HOST:PORT,...", help=text)


config_option: Option = click.option(
    "--config",
    type=FilePath(path_type=Path),
    metavar="FILE",
    help="Settings in YAML.  [default: the shipped config/eventstreams.yaml]",
)

append_options = combined(
    config_option,
    data_dir_option("Append to the embedded log in this directory; a gateway may be using it."),
    kafka_option("Append to the topics of these brokers."),
)
"""The options of commands that append to a log; `log_settings` interprets them."""

skip_bad_option: Option = click.option(
    "--skip-bad", is_flag=True, help="Report invalid lines and continue instead of stopping."
)

stream_options = combined(
    click.option("--stream", required=True, metavar="NAME", help="A stream of the catalogue."),
    click.option(
        "--topic", metavar="TOPIC", help="One of the stream's topics.  [default: its first]"
    ),
    click.option("--partition", type=Whole(min=0), metavar="N", help="[default: the log chooses]"),
    click.option(
        "--timestamp",
        type=click.Choice(["meta", "now"]),
        default="meta",
        show_default=True,
        help="The time of each record: the event's meta.dt if it has one, or when it is appended.",
    ),
    skip_bad_option,
    append_options,
)
"""The options of commands that append events to one stream; `find_destination` interprets them."""


def from_line_option(run: str) -> Option:
    """Return the option for the first line to read. `run` describes the run that stopped there."""
    return click.option(
        "--from-line",
        type=Whole(min=1),
        default=1,
        metavar="N",
        help=f"Skip the lines before this one, for example after {run} that stopped.",
    )


log_level_option: Option = click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="The least severe messages to log.",
)

dry_run_option: Option = click.option(
    "--dry-run", is_flag=True, help="Check every line without appending anything."
)

followed_stream: Option = click.argument("where", metavar="STREAM[,STREAM...]|URL")
"""The streams that `tail` and `export` read."""

followed_selection = combined(
    click.option(
        "--filter",
        "filter_",
        metavar="CEL",
        help="Only events for which this is true, such as event.wiki == 'enwiki'.",
    ),
    click.option(
        "--fields",
        metavar="NAME,...",
        help="Only these fields of each event, such as title,meta.dt.",
    ),
)
"""The options that choose events of these streams, and parts of them."""

followed_url_option = url_option("The gateway to connect to when STREAM is a name and not a URL.")
followed_token_option = token_file_option(
    "A file with an access token; it is read again for each connection."
)
