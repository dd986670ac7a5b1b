"""Every command and snippet of the README and docs/ runs exactly as it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks
from tests.docs.reader import LANGUAGES, Missing, Reader

pytestmark = pytest.mark.anyio

NOT_RUN = {
    "README.md": 2,
    "docs/access.md": 1,
    "docs/browser.md": 2,
    "docs/consuming.md": 1,
    "docs/deployment.md": 8,
    "docs/operations.md": 3,
    "docs/propagation.md": 1,
    "docs/relay.md": 2,
    "docs/verify.md": 3,
}
"""How many blocks of a page are not run. Each has its reason in a comment before it."""

_OTHER_TESTS = {"docs/eventlogging.md"}
"""Pages whose commands have a test of their own, which makes the files that they need."""
_NAMES = {page: str(page.relative_to(ROOT)) for page in PAGES}
_FOLLOWED = [
    page
    for page in PAGES
    if _NAMES[page] not in _OTHER_TESTS
    and any(block.language in LANGUAGES and block.is_run for block in blocks(page))
]


@pytest.mark.parametrize("page", _FOLLOWED, ids=_NAMES.get)
async def test_a_reader_can_follow_the_page(page: Path, tmp_path: Path) -> None:
    steps = [each for each in blocks(page) if each.language in LANGUAGES or each.directive]
    missing: list[str] = []
    async with Reader(tmp_path) as reader:
        for step in steps:
            try:
                await reader.follow(step)
            except Missing as error:
                missing.append(f"line {step.line}: {error}")
            except AssertionError as error:
                raise AssertionError(f"{_NAMES[page]}:{step.line}: {error}") from None
    if missing:
        # Nothing else of the tests needs Go, so scripts/test does not install it.
        optional = all(each.endswith(": go") for each in missing) or not os.environ.get("CI")
        (pytest.skip if optional else pytest.fail)(f"not installed: {missing}")


def test_the_blocks_that_are_not_run_are_known_and_have_reasons() -> None:
    skipped = {_NAMES[page]: [each for each in blocks(page) if not each.is_run] for page in PAGES}
    assert {name: len(found) for name, found in skipped.items() if found} == NOT_RUN
    assert all(each.about.strip() for found in skipped.values() for each in found)
