"""The page of live events, as a real browser shows it."""

from __future__ import annotations

import asyncio
import html
import tempfile
from urllib.parse import quote

import pytest

from tests.programs import BROWSER, running
from tests.web.client import PATIENCE_S
from tests.web.gateway import Site

pytestmark = pytest.mark.anyio


async def test_what_is_wrong_with_a_filter_is_shown_with_its_place(embedded: Site) -> None:
    topic = await embedded.topic()
    chosen = f"#?streams=s&filter={quote('event.n = = 1')}"
    async with embedded.gateway({"other": [topic], "s": [topic]}) as gateway:
        page = f"http://127.0.0.1:{gateway.port}/v2/ui/{chosen}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            once_idle = "--virtual-time-budget=2000", "--dump-dom"
            command = *BROWSER, f"--user-data-dir={profile}", *once_idle, page
            async with asyncio.timeout(PATIENCE_S), running(*command) as browser:
                assert browser.stdout is not None
                shown = html.unescape((await browser.stdout.read()).decode())
    assert 'data-kind="error">Invalid filter at line 1, column 9: Syntax error' in shown
    assert "\nevent.n = = 1\n        ^</pre>" in shown
    assert ">Not connected</output>" in shown
