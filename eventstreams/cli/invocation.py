"""Determines how the user called this program, so that printed commands can be copied."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

_NAME = "eventstreams"


def called_as() -> str:
    """Return the words before the name of a command: the program's path, unless PATH finds it."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.orig_argv[0])} -m {_NAME}"
    found = shutil.which(_NAME)
    is_found = found is not None and Path(found).absolute() == called.absolute()
    return _NAME if is_found or called.name != _NAME else shlex.quote(sys.argv[0])
