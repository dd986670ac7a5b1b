"""Runs commands, prints each error as one line and sets the exit code.

0: success. 1: the operation failed. 2: wrong usage or configuration.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any, NoReturn

import click

import eventstreams
from eventstreams.cli.messages import print_message
from eventstreams.errors import ConfigError, EventStreamsError
from eventstreams.model.visible import visible

_MODULES = {
    "serve": "serve",
    "tail": "tail",
    "export": "export",
    "produce": "produce",
    "import": "import_",
    "restore": "restore",
    "relay": "relay",
    "init": "init",
    "new-stream": "new_stream",
    "check": "check",
    "propagate": "propagate",
    "verify": "verify",
    "schemas": "schemas",
    "eventlogging": "eventlogging",
}


class Commands(click.Group):
    """Imports the module of a command only when that command is used, so startup is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"eventstreams.cli.{_MODULES[cmd_name]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _MODULES:
            from eventstreams.model.nearest import did_you_mean  # noqa: PLC0415 - seldom needed

            if hint := did_you_mean(args[0], _MODULES):
                ctx.fail(f"No such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _as_if_unhandled)
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail(error.problems, 2)
        except EventStreamsError as error:
            _fail([str(error)], 1)
        except KeyboardInterrupt:
            _fail(["interrupted"], 1)
        except click.UsageError as error:  # click prints it
            text = error.format_message()
            if visible(text, keeps_lines=True) == text:
                raise
            raise click.UsageError(visible(text, keeps_lines=True), error.ctx) from error


def _as_if_unhandled(number: int, _frame: object) -> NoReturn:
    """Exit as the default action of a signal would.

    The kernel discards unhandled signals for the first process of a container, so a signal before
    the server installs its handlers would otherwise have no effect.
    """
    os._exit(128 + number)


def _fail(lines: list[str], code: int) -> NoReturn:
    for line in lines:
        print_message(f"Error: {line}")
    raise click.exceptions.Exit(code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Run `eventstreams COMMAND --help` for details and examples.",
)
@click.version_option(eventstreams.__version__, prog_name="eventstreams")
def main() -> None:
    """Serve live event streams over HTTP, and read, post and copy their events.

    \b
    First steps:
      eventstreams serve                    a gateway with synthetic events
      eventstreams tail recentchange        what it sends, in another terminal
    """
