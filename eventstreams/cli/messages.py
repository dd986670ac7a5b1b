"""Prints the messages of commands, which often quote a server, a file or an argument."""

from __future__ import annotations

import click

from eventstreams.model.visible import visible


def print_message(text: object) -> None:
    """Print a message on standard error, with control characters in it as escapes."""
    click.echo(visible(str(text), keeps_lines=True), err=True)
