"""The build context: which files .dockerignore lets through, and what COPY makes of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


class Context:
    """The files of a folder that an image may be built from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rules = list(_rules((folder / ".dockerignore").read_text()))

    def allows(self, path: str) -> bool:
        """The last rule that matches a path of the folder, or what is above the path, wins."""
        above = [path, *(str(each) for each in PurePosixPath(path).parents)][:-1]
        allowed = True
        for pattern, lets in self._rules:
            if any(pattern.fullmatch(each) for each in above):
                allowed = lets
        return allowed

    def files(self, source: str) -> Iterator[str]:
        """Those at or below a path; none where there are none."""
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
        """As COPY does: what is in a folder, or a file `into` the destination or as it. Returns
        how many files. Raises FileNotFoundError for a source without any."""
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
    """Each pattern, and whether it lets through."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern = line.strip()
            yield _regex(pattern.removeprefix("!").strip("/")), pattern.startswith("!")


def _regex(pattern: str) -> re.Pattern[str]:
    """`*` stays within a name, `**` does not. Other signs are letters, as ours are."""
    assert not set(pattern) & set("?[]\\"), pattern
    parts = re.split(r"(\*\*/|\*)", pattern)
    named = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(named.get(part, re.escape(part)) for part in parts))
