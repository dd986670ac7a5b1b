"""What axe-core finds wrong with a page."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Literal

import pytest
from playwright.async_api import Page

from tests.support.page import ROOT

_AXE = ROOT / ".clients" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
_THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_OF_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
_SETTLED = """async () => {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  await frame();
  await frame();
  const transitions = document.getAnimations().filter((it) => it instanceof CSSTransition);
  await Promise.allSettled(transitions.map((it) => it.finished));
}"""


async def violations(page: Page, within: str = "html") -> list[Any]:
    """Return what is wrong within the elements of a selector, in the light and the dark theme.

    The themes differ only in colours, so the rules without colours are checked in one of them. The
    context of the page must bypass its policy, which forbids axe.
    """
    if not _AXE.exists():
        missing = "axe-core is not there; scripts/clients install node fetches it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(await asyncio.to_thread(_AXE.read_text))
    found: list[Any] = []
    for theme in _THEMES:
        await page.emulate_media(color_scheme=theme)
        await page.evaluate(_SETTLED)
        # Without details of what is right, which take as long as finding what is wrong.
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if theme != _THEMES[0]:
            options["runOnly"] = _OF_COLOURS
        result = await page.evaluate("(it) => axe.run(...it)", [within, options])
        found += [
            (theme, wrong["id"], [node["html"] + node["failureSummary"] for node in wrong["nodes"]])
            for wrong in result["violations"]
        ]
    return found
