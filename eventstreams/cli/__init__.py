"""The command line: one file per command, loaded when it is called."""

from eventstreams.cli.app import main as main
