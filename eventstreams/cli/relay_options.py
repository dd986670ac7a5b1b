"""Parses the options for relays, for `relay` and for `serve --relay`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import click

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_OPTIONS = {
    "url": "URL",
    "streams": "--streams",
    "since": "--since",
    "token_file": "--token-file",
}
"""The argument or option of `relay` for each setting that can have a problem."""


def relay_name(url: str) -> str:
    """Return the default name of a relay: the host of its upstream, and the port."""
    try:
        place = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        place = ""
    return _NOT_IN_NAMES.sub("-", place)[:100] or "relay"


def checked_name(name: str) -> str:
    """Return the name of a relay. Raises click.UsageError if it cannot name a bookmark."""
    if not _NAME.fullmatch(name):
        raise click.UsageError(
            f"--name: {name!r} is not 1 to 100 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
        )
    return name


def as_options(problems: Iterable[str], name: str, *, url_names_streams: bool) -> list[str]:
    """Return problems of the settings of a relay with the options of the command in their place.

    `url_names_streams`: whether the streams are those of the URL rather than of --streams.
    """
    found = list[str]()
    for problem in problems:
        setting, _, reason = problem.removeprefix(f"relays.{name}.").partition(": ")
        if setting == "streams":
            reason += " (--streams NAME=OURS stores a stream under another name)"
        in_url = setting == "streams" and url_names_streams
        found.append(f"{'URL' if in_url else _OPTIONS.get(setting, setting)}: {reason}")
    return found


def mapping_of(text: str | None) -> dict[str, str] | tuple[str, ...]:
    """Return `a,b=c` as names, or as a map from upstream names to our names.

    Raises click.UsageError.
    """
    if text is None:
        return ()
    found: dict[str, str] = {}
    for part in text.split(","):
        theirs, equals, ours = (each.strip() for each in part.partition("="))
        if not theirs or (equals and not ours):
            raise click.UsageError(f"--streams: {part!r} is neither NAME nor NAME=OURS")
        if theirs in found:
            raise click.UsageError(f"--streams names {theirs} twice")
        found[theirs] = ours or theirs
    return found
