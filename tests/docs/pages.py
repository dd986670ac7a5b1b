"""The Markdown pages of the project: their code blocks with directives, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bench").glob("*.md")),
)

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<directive>not run|runs until|runs beside|prints|fails|file): "
    r"(?P<about>[^\n]*) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!\\)\]\((?P<target>[^)\s]+)\)|(?:src|href|srcset)=\"(?P<quoted>[^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block. `directive` is that of the HTML comment on the line before it."""

    language: str
    text: str
    directive: str
    about: str
    line: int

    @property
    def is_run(self) -> bool:
        return self.directive != "not run"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            found["language"],
            re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            found["directive"] or "",
            found["about"] or "",
            text.count("\n", 0, found.start("language")) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


def links(page: Path) -> Iterator[str]:
    """Yield the targets of the links and images of a page, outside of code."""
    text = _BLOCK.sub("", page.read_text())
    text = re.sub(r"(`+).+?\1", "", text)
    for found in _LINK.finditer(text):
        yield found["target"] or found["quoted"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_BLOCK.sub("", page.read_text())):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found
