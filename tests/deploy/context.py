"""The build context: the files that .dockerignore includes, and COPY."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


class Context:
    """The files of a folder from which an image is built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rules = list(_rules((folder / ".dockerignore").read_text()))

    def allows(self, path: str) -> bool:
        """Return whether a path is included, by the last rule that matches it or a parent."""
        above = [path, *(str(each) for each in PurePosixPath(path).parents)][:-1]
        allowed = True
        for pattern, lets in self._rules:
            if any(pattern.fullmatch(each) for each in above):
                allowed = lets
        return allowed

    def files(self, source: str) -> Iterator[str]:
        """Return the files at or below a path."""
        top = self._folder / source
        if not top.is_dir():
            if top.exists() and self.allows(source):
                yield str(PurePosixPath(source))
            return
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                path = (Path(folder) / name).relative_to(self._folder).as_posix()
                if self.allows(path):
                    yield path

    def copy(self, sources: Sequence[str], destination: Path, *, into: bool) -> int:
        """Copy like COPY: the content of a folder, or a file to or `into` the destination.

        Returns the number of files. Raises FileNotFoundError if there are none.
        """
        count = 0
        for source in sources:
            found = list(self.files(source))
            if not found:
                raise FileNotFoundError(f"{source}: nothing of it is in the build context")
            for path in found:
                if (self._folder / source).is_dir():
                    target = destination / PurePosixPath(path).relative_to(source)
                else:
                    target = destination / PurePosixPath(path).name if into else destination
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._folder / path, target, follow_symlinks=False)
                if not target.is_symlink():
                    target.chmod((self._folder / path).stat().st_mode)
                os.chown(target, 0, 0, follow_symlinks=False)
            count += len(found)
        return count


def _rules(text: str) -> Iterator[tuple[re.Pattern[str], bool]]:
    """Yield each pattern, and whether it includes files."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern = line.strip()
            yield _regex(pattern.removeprefix("!").strip("/")), pattern.startswith("!")


def _regex(pattern: str) -> re.Pattern[str]:
    """Return an expression: `*` matches within a name, `**` across names."""
    assert not set(pattern) & set("?[]\\"), pattern
    parts = re.split(r"(\*\*/|\*)", pattern)
    named = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(named.get(part, re.escape(part)) for part in parts))
