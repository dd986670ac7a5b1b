"""The group of commands, and what becomes of errors: one clear line each, and an exit code.

0: done. 1: the operation failed. 2: wrong usage or configuration.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any, NoReturn

import click

import eventstreams
from eventstreams.errors import ConfigError, EventStreamsError

_MODULES = {
    "serve": "serve",
    "tail": "tail",
    "produce": "produce",
    "import": "import_",
    "check": "check",
    "schemas": "schemas",
    "eventlogging": "eventlogging",
}


class Commands(click.Group):
    """Imports a command's module only when that command is named: starting stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"eventstreams.cli.{_MODULES[cmd_name]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _as_if_unhandled)
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail(error.problems, 2)
        except EventStreamsError as error:
            _fail([str(error)], 1)


def _as_if_unhandled(number: int, _frame: object) -> NoReturn:
    """The kernel keeps from the first process of a container what it does not handle: told to stop
    before it serves, it would go on as if nothing had been said."""
    os._exit(128 + number)


def _fail(lines: list[str], code: int) -> NoReturn:
    for line in lines:
        click.echo(f"Error: {line}", err=True)
    raise click.exceptions.Exit(code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`eventstreams COMMAND --help` tells more, with examples.",
)
@click.version_option(eventstreams.__version__, prog_name="eventstreams")
def main() -> None:
    """Topics of a log, out as Server-Sent Events.

    \b
    First steps:
      eventstreams serve                    a gateway with synthetic events
      eventstreams tail recentchange        what it sends, in another terminal
    """
