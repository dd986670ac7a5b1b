"""What every program here prints: a line of JSON for each thing it was handed."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

URL = sys.argv[1]
_CONNECTIONS_MAX = 4
_PAUSE_S = 0.1


def say(**item: object) -> None:
    print(json.dumps(item), flush=True)


def versions(*packages: str) -> None:
    names = [f"{package} {version(package)}" for package in packages]
    say(version=", ".join([*names, f"Python {platform.python_version()}"]))


def by_hand(connect: Callable[[str | None], str | None]) -> None:
    """The loop a user writes around a library that does not reconnect.

    connect gets the id to resume with. It raises what the library raises; LAST holds the id that
    the library showed last.
    """
    for _ in range(_CONNECTIONS_MAX):
        try:
            connect(LAST[-1] if LAST else None)
            say(end="ends without an error")
        except Exception as error:  # whatever the library raises is the measurement
            say(error=type(error).__name__)
        time.sleep(_PAUSE_S)


LAST: list[str] = []
