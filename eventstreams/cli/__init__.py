"""The command line. Each command has a module that is imported when the command is used."""

from eventstreams.cli.app import main as main
