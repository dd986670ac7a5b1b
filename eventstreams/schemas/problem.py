"""What is wrong with a schema and where: file, JSON pointer (RFC 6901), message.

Everything that reads schemas raises SchemaError with all the problems it found.
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    place: str
    """The file, relative to its folder where it lies in one."""
    pointer: str
    """Where in the document; empty for the whole of it."""
    message: str
    check: str = ""
    """The name of the check that found it, as `skipSchemaTestCases` knows it."""

    def __str__(self) -> str:
        where = f"{self.place}#{self.pointer}" if self.pointer else self.place
        return f"{where}: {self.message}" + (f" [{self.check}]" if self.check else "")


def below(pointer: str, *tokens: str | int) -> str:
    """The pointer to what lies under `pointer` at these keys or indexes."""
    for token in tokens:
        pointer += "/" + str(token).replace("~", "~0").replace("/", "~1")
    return pointer


def tokens_of(pointer: str) -> list[str]:
    """The keys of a pointer. Raises ValueError where it is not one."""
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]
