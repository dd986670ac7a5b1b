"""Print docs/cli.md: the help of every command, as a terminal of 100 columns shows it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from eventstreams.cli.app import main as program

_INTRODUCTION = """\
# Commands

<!-- Written by scripts/docs from the commands themselves. Do not edit it here. -->

This is what `--help` prints for each command. Exit codes: 0 done, 1 failed, 2 wrong usage or
configuration.
"""


def main() -> None:
    print(_INTRODUCTION)
    shown = {"terminal_width": 100, "help_option_names": ["-h", "--help"]}
    with click.Context(program, info_name="eventstreams", **shown) as context:
        print("\n\n".join(_sections(program, context)))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the section of a command, then those of the commands in it."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"## {context.command_path}\n\n```text\n{text}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            with inner.make_context(name, ["--help"], context, resilient_parsing=True) as below:
                yield from _sections(inner, below)


if __name__ == "__main__":
    main()
