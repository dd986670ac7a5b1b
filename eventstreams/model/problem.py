"""Describes a problem of a schema: the file, a JSON pointer (RFC 6901) into it, and a message.

Everything that reads schemas raises SchemaError with all problems that it found.
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    place: str
    """The file, relative to the folder of schemas if it is in one."""
    pointer: str
    """The place in the document; empty for the whole document."""
    message: str
    check: str = ""
    """The name of the check that found it, as in `skipSchemaTestCases`."""

    def __str__(self) -> str:
        where = f"{self.place}#{self.pointer}" if self.pointer else self.place
        return f"{where}: {self.message}" + (f" [{self.check}]" if self.check else "")


def below(pointer: str, *tokens: str | int) -> str:
    """Return the pointer to the value at these keys or indexes below `pointer`."""
    for token in tokens:
        pointer += "/" + str(token).replace("~", "~0").replace("/", "~1")
    return pointer


def tokens_of(pointer: str) -> list[str]:
    """Return the keys of a pointer. Raises ValueError if it is not a JSON pointer."""
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]
