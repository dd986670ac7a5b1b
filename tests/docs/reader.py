"""Follow a page as a reader would: run its blocks in order, in a folder that looks like a checkout.

What is replaced: the port 8092, by that of the page's own gateway, and `scripts/serve` by the
command that it runs once `.venv` is there. What a block does is said in an HTML comment on the line
before it:

- `<!-- runs until: TEXT -->`: it is stopped, as by Ctrl-C, once it has printed this text;
- `<!-- runs beside: TEXT -->`: once it has printed this text, the next block is run beside it;
- `<!-- prints: TEXT -->`: it ends, and has printed this text;
- `<!-- fails: TEXT -->`: it fails, and has printed this text;
- `<!-- file: NAME -->`: it is the content of this file in the reader's folder;
- `<!-- not run: REASON -->`: it is only parsed.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from eventstreams.cli.app import main
from tests.docs.pages import ROOT, Block
from tests.support.programs import GO_PATIENCE_S, browser
from tests.support.waiting import PATIENCE_S

SERVE = "eventstreams serve --data-dir data"
LANGUAGES = ("sh", "python", "js", "html", "go", "yaml")
"""Blocks of these languages are run or checked; all others show output."""

_CLIENTS = ROOT / ".clients"
_BIN = Path(sys.executable).parent
_ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1):8092")
_USES_GATEWAY = re.compile(rf"{_ADDRESS.pattern}|eventstreams (?:tail|produce|propagate) ")
_WRAPPER = f"""\
#!/bin/sh
[ "$1" != serve ] || set -- "$@" --port 0
exec {_BIN}/eventstreams "$@"
"""
_PROGRAMS = ("curl", "jq", "openssl")
"""What commands of the pages need besides the package and a shell."""


class Missing(Exception):
    """A program that the block needs is not installed."""


class Reader:
    """Runs blocks in `folder`. Use as an asynchronous context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._address = ""
        self._beside: list[tuple[Process, asyncio.Task[None]]] = []
        self._count = 0

    async def __aenter__(self) -> Reader:
        for name in ("config", "requirements"):
            shutil.copytree(ROOT / name, self.folder / name, symlinks=True)
        commands = self.folder / ".venv" / "bin"
        scripts = self.folder / "scripts"
        for path, text in (
            (commands / "eventstreams", _WRAPPER),
            (scripts / "serve", f'#!/bin/sh\nexec {commands}/{SERVE} "$@"\n'),
        ):
            path.parent.mkdir(parents=True)
            path.write_text(text)
            path.chmod(0o755)
        (self.folder / ".curlrc").write_text("fail-with-body\n")
        if (_CLIENTS / "npm").is_dir():
            (self.folder / "node_modules").symlink_to(_CLIENTS / "npm" / "node_modules")
        return self

    async def __aexit__(self, *_: object) -> None:
        for process, drained in reversed(self._beside):
            await _stop(process)
            await drained

    async def follow(self, block: Block) -> None:
        """Run or check the block. Raises AssertionError if it fails, and Missing.

        A page that uses a gateway and does not say how to start it means `scripts/serve`.
        """
        self._count += 1
        if block.is_run and not self._address and _USES_GATEWAY.search(block.text):
            await self._shell(Block("sh", "scripts/serve", "runs beside", "listening", 0))
        text = self._placed(block.text)
        if block.directive == "file":
            path = self.folder / block.about
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not block.is_run:
            await self._parse(block)
        elif block.language == "yaml":
            await asyncio.to_thread(self._check_yaml, text)
        else:
            await getattr(self, f"_{block.language}")(block._replace(text=text))

    async def _sh(self, block: Block) -> None:
        for program in _PROGRAMS:
            if re.search(rf"\b{program} ", block.text):
                _need(program)
        prints = re.search(r"\bcurl (?!.*(-o |> ?\w))", block.text)
        await self._shell(block, must_print=bool(prints))

    async def _python(self, block: Block) -> None:
        python = _python_for(block.text)
        await self._program(f"{self._count}.py", block, f"exec {python} -u {self._count}.py")

    async def _js(self, block: Block) -> None:
        _need("node")
        if "from " in block.text and not (_CLIENTS / "npm").is_dir():
            raise Missing("npm clients: scripts/clients install")
        await self._program(f"{self._count}.mjs", block, f"exec node {self._count}.mjs")

    async def _go(self, block: Block) -> None:
        _need("go")
        name = f"go{self._count}/main.go"
        await self._program(name, block, f"exec go run {name}", GO_PATIENCE_S)

    async def _html(self, block: Block) -> None:
        """Run the scripts in a page of Chromium until they log something."""
        _need("chromium")
        script = "\n".join(re.findall(r"<script>(.*?)</script>", block.text, re.DOTALL))
        assert script, "no script"
        said = 'for (const name of ["log", "warn"]) console[name] = (...said) => report(said);'
        async with asyncio.timeout(PATIENCE_S), browser(f"{said}\n{script}") as page:
            [report] = await page.reports(1)
        assert report, "nothing logged"

    async def _program(
        self, name: str, block: Block, command: str, patience_s: float = PATIENCE_S
    ) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text)
        await self._shell(block._replace(text=command), patience_s, must_print=True)

    def _check_yaml(self, text: str) -> None:
        """Check it with `eventstreams check`, as settings or as a part of the catalogue."""
        document = yaml.safe_load(text)
        folder = self.folder / f"checked{self._count}"
        shutil.copytree(self.folder / "config", folder, symlinks=True)
        if {"streams", "defaults"} & document.keys():
            shipped = yaml.safe_load((ROOT / "config" / "streams.yaml").read_text())
            merged = {**document, "streams": {**shipped["streams"], **document["streams"]}}
            (folder / "streams.yaml").write_text(yaml.safe_dump(merged))
            access = {"jwks_url": "https://login.example.org/jwks.json"}  # streams may have scopes
            (folder / "eventstreams.yaml").write_text(yaml.safe_dump({"access": access}))
        else:
            (folder / "eventstreams.yaml").write_text(text)
        with chdir(self.folder):
            arguments = ["check", "--config", f"{folder.name}/eventstreams.yaml"]
            result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output or result.exception

    async def _parse(self, block: Block) -> None:
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "sh":
            await self._shell(Block("sh", f"bash -n <<'END'\n{block.text}END", "", "", 0))
        elif block.language == "js" and shutil.which("node"):
            (self.folder / "parsed.mjs").write_text(block.text)
            await self._shell(Block("sh", "node --check parsed.mjs", "", "", 0))

    async def _shell(
        self, block: Block, patience_s: float = PATIENCE_S, *, must_print: bool = False
    ) -> None:
        """Run a script, and wait for what the block's directive says."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", block.text),
            cwd=self.folder,
            env=self._environment(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        wanted = self._placed(block.about) if block.directive.startswith("runs") else None
        printed = b""
        try:
            async with asyncio.timeout(patience_s):
                while read := await process.stdout.read(65536):
                    printed += read
                    if wanted is not None and wanted.encode() in printed:
                        break
        except TimeoutError:
            await _stop(process, signal.SIGKILL)
            raise AssertionError(
                f"{block.text}\nstill runs, having printed:\n{printed!r}"
            ) from None
        shown = f"{block.text}\n{printed.decode(errors='replace')}"
        if wanted is not None and wanted.encode() not in printed:
            await _stop(process, signal.SIGKILL)
            raise AssertionError(shown)
        if block.directive == "runs beside":
            if listens := re.search(rb'"url": ?"http://([^/"]+)', printed):
                self._address = listens[1].decode()
            drained = asyncio.create_task(_drain(process.stdout))
            self._beside.append((process, drained))
        elif block.directive == "runs until":
            await _stop(process)
            await _drain(process.stdout)
        else:
            status = await process.wait()
            assert (status != 0) == (block.directive == "fails"), shown
            if block.directive in ("prints", "fails"):
                assert self._placed(block.about) in printed.decode(), shown
            elif must_print:
                assert printed.strip(), f"{block.text}\nprinted nothing"

    def _placed(self, text: str) -> str:
        return _ADDRESS.sub(self._address, text) if self._address else text

    def _environment(self) -> Mapping[str, str]:
        path = f"{self.folder}/.venv/bin{os.pathsep}{_BIN}{os.pathsep}{os.environ['PATH']}"
        place: dict[str, Any] = {"CURL_HOME": str(self.folder), "PATH": path}
        if self._address:
            place["EVENTSTREAMS_URL"] = f"http://{self._address}"
        return {**os.environ, **place}


def _need(command: str) -> None:
    if shutil.which(command) is None:
        raise Missing(command)


def _python_for(text: str) -> str:
    """Return a Python that has the modules that the program imports."""
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    parts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    modules = {alias.name for node in imported for alias in node.names}
    modules |= {node.module for node in parts if node.module is not None}
    others = {"httpx_sse", "requests", "requests_sse", "sseclient"} & modules
    if not others:
        return sys.executable
    python = _CLIENTS / "venv" / "bin" / "python"
    if not python.exists():
        raise Missing("Python clients: scripts/clients install")
    return str(python)


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


async def _stop(process: Process, how: signal.Signals = signal.SIGTERM) -> None:
    """Signal the block's processes, and wait until the first one has ended.

    It is not SIGINT, which is ignored where the tests run in the background of a shell.
    """
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()
    except TimeoutError:
        raise AssertionError("the block does not end when it is stopped") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
