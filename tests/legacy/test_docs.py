"""docs/eventlogging.md: its commands work on a fresh installation, in the order of the page."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.eventlogging import line
from tests.support.process import logged, started
from tests.support.programs import needed
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/eventlogging.md").read_text()
SCHEMA = {"properties": {"action": {"type": "string", "required": True}}}


async def run(folder: Path, script: str) -> str:
    """Return the output of a script, which must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *(needed("bash"), "-euo", "pipefail", "-c", script),
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(PATIENCE_S * len(script.splitlines())):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{script}\n{stderr.decode()}"
    return stdout.decode()


async def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    needed("curl")
    shutil.copytree(ROOT / "config", tmp_path / "config", symlinks=True)
    raw = "".join(f"{line(str(n), n)}\n" for n in range(3))
    (tmp_path / "raw.log").write_text(raw)
    (tmp_path / "raw.log.gz").write_bytes(gzip.compress(raw.encode()))
    (tmp_path / "edit.json").write_text(json.dumps(SCHEMA))
    process = await started("--port", "0", "--no-demo", "--data-dir", str(tmp_path / "data"))
    try:
        url = (await logged(process, "listening"))["url"].removesuffix("/")
        scripts = [
            script.replace("http://localhost:8092", url)
            for script in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        ]
        beacon, *others = scripts
        assert len(others) == 3
        printed = await run(tmp_path, beacon)
        assert printed.startswith("HTTP/1.1 204 ")
        event = json.loads(printed.splitlines()[-1])
        [example] = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        documented = json.loads(example)
        assert event.keys() == documented.keys()
        assert event["event"] == documented["event"] == {"OtherMessage": "hello"}
        assert event["$schema"] == documented["$schema"]
        for script in others:
            await run(tmp_path, script)
    finally:
        process.kill()
        await process.wait()
    assert (tmp_path / "config/schemas/analytics/legacy/edit/1.0.0.yaml").is_file()
