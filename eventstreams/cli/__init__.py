"""Implements the command line. The module of a command is imported only when it is used."""

from eventstreams.cli.app import main as main
