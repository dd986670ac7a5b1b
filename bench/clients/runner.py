"""Runs every client on every scenario and prints the results as Markdown.

`scripts/clients` installs the clients and starts this; arguments are names of clients to run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.clients import scenarios
from bench.clients.scenarios import SCENARIOS
from bench.clients.server import Run, Server

TOP = Path(__file__).parent.parent.parent
INSTALLED = TOP / ".clients"
PROGRAMS = Path(__file__).parent / "programs"
RUN_S = 30.0
"""The time limit of a run."""
AT_ONCE = 3


@dataclass(frozen=True)
class Client:
    name: str
    command: list[str]
    """The command; {url} is replaced by the URL."""
    needs: Path | None
    """A path that exists if the client is installed; None if none was found."""
    by: str = "itself"
    """What reconnects: the library, or the loop around it."""
    environment: tuple[tuple[str, str], ...] = ()


def _found(program: str) -> Path | None:
    where = shutil.which(program)
    return Path(where) if where else None


def clients() -> list[Client]:
    venv = INSTALLED / "venv"
    old = INSTALLED / "sseclient"  # its module has the same name as that of sseclient-py
    modules = INSTALLED / "npm" / "node_modules"
    go = INSTALLED / "bin" / "go-clients"
    packages = next(iter((venv / "lib").glob("python*/site-packages")), venv / "nothing")

    def python(name: str, program: str, module: Path, **rest: str) -> Client:
        command = [str(venv / "bin" / "python"), str(PROGRAMS / program), "{url}"]
        path = (("PYTHONPATH", str(old)),) if module.parent == old else ()
        return Client(name, command, module, environment=path, **rest)

    def node(name: str, program: str, needs: Path | None, *arguments: str, by: str) -> Client:
        command = ["node", str(PROGRAMS / program), "{url}", *arguments]
        found = needs if _found("node") else None
        return Client(name, command, found, by, (("CLIENT_MODULES", str(modules)),))

    def curl(name: str, *options: str) -> Client:
        command = ["bash", str(PROGRAMS / "curl.sh"), "{url}", *options]
        return Client(name, command, _found("curl"), "nobody")

    return [
        python("httpx-sse", "py_httpx_sse.py", packages / "httpx_sse", by="a loop"),
        python("sseclient-py", "py_sseclient_py.py", packages / "sseclient", by="a loop"),
        python("sseclient", "py_sseclient.py", old / "sseclient.py"),
        python("requests-sse", "py_requests_sse.py", packages / "requests_sse"),
        python(
            "aiohttp-sse-client2",
            "py_aiohttp_sse_client2.py",
            packages / "aiohttp_sse_client2",
            by="itself after a clean end, a loop after a cut",
        ),
        node("npm eventsource", "node_eventsource.mjs", modules / "eventsource",
             "eventsource", by="itself"),
        node("npm eventsource, alone", "node_eventsource.mjs", modules / "eventsource",
             "eventsource", "alone", by="itself"),
        node("npm eventsource 2", "node_eventsource.mjs", modules / "eventsource2",
             "eventsource2", by="itself"),
        node("Node fetch", "node_fetch.mjs", PROGRAMS, by="a loop"),
        Client("Go r3labs/sse", [str(go), "{url}", "r3labs"], go),
        Client("Go tmaxmax/go-sse", [str(go), "{url}", "tmaxmax"], go),
        Client("Chromium EventSource", ["chromium"], _found("chromium")),
        Client("fetch-event-source in Chromium", ["chromium", "#fetch"],
               modules / "@microsoft" / "fetch-event-source" if _found("chromium") else None),
        curl("curl"),
        curl("curl --compressed", "--compressed"),
    ]  # fmt: skip


def _browser(page: str, profile: str) -> list[str]:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update"]
    return ["chromium", *options, f"--user-data-dir={profile}", page]


async def run(server: Server, client: Client, scenario: str) -> Run:
    made = Run(SCENARIOS[scenario], looped="loop" in client.by)
    key = f"{client.name}-{scenario}".replace(" ", "-").replace("/", "-")
    server.runs[key] = made
    base = f"http://127.0.0.1:{server.port}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        if client.command[0] == "chromium":
            page = "".join([f"{base}/page/{key}", *client.command[1:]])
            command = _browser(page, profile)
        else:
            command = [part.format(url=f"{base}/run/{key}") for part in client.command]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict(client.environment)},
            start_new_session=True,  # so that all processes of a client are stopped together
        )
        reading = asyncio.create_task(_read(process, made))
        try:
            async with asyncio.timeout(RUN_S):
                done = asyncio.create_task(made.done.wait())
                await asyncio.wait({done, reading}, return_when=asyncio.FIRST_COMPLETED)
                done.cancel()
                if not made.done.is_set() and not scenarios.end_reported(made, 1):
                    await made.add({"end": f"process ends, status {await process.wait()}"})
        except TimeoutError:
            pass  # the results up to then are the finding
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await reading
    print(f"{client.name}: {scenario}", file=sys.stderr)
    return made


async def _read(process: asyncio.subprocess.Process, made: Run) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        with contextlib.suppress(ValueError):  # some libraries print, too
            item = json.loads(line)
            if isinstance(item, dict):
                await made.add(item)


async def measure(chosen: list[Client]) -> dict[str, dict[str, Run]]:
    server, found = Server(), {client.name: dict[str, Run]() for client in chosen}
    places = asyncio.Semaphore(AT_ONCE)

    async def one(client: Client, scenario: str) -> None:
        async with places:
            found[client.name][scenario] = await run(server, client, scenario)

    async with server.listening(), asyncio.TaskGroup() as group:
        for client in chosen:
            for scenario in SCENARIOS if client.needs and client.needs.exists() else ():
                group.create_task(one(client, scenario))
    return found


Column = tuple[str, Callable[[dict[str, Run]], str]]
BOTH = ["1", "2"]

FRAMES: list[Column] = [
    ("`:ok` and a blank line", lambda of: scenarios.behind_ok(of["end"])),
    ("`id:` frame first", lambda of: scenarios.frames(of["first"], [])),
    (
        "`id:` frames before, between, behind events (4)",
        lambda of: scenarios.frames(of["between"], BOTH),
    ),
    ("comment lines (4)", lambda of: scenarios.frames(of["comments"], BOTH)),
]
RESUMING: list[Column] = [
    (
        "`id:` frame, no event yet",
        lambda of: scenarios.resumed_with(of["first"], checkpoint=100),
    ),
    (
        "events, then an `id:` frame",
        lambda of: scenarios.resumed_with(of["between"], event=2, checkpoint=103),
    ),
    (
        "event, then an `id:` line torn in its middle",
        lambda of: scenarios.resumed_with(of["torn"], event=1, checkpoint=101),
    ),
    (
        "event, then a comment line",
        lambda of: scenarios.resumed_with(of["comments"], event=2),
    ),
]
ENDS: list[Column] = [
    ("a cut", lambda of: scenarios.how_it_ended(of["comments"])),
    ("a clean end", lambda of: scenarios.how_it_ended(of["end"])),
    ("204 when it reconnects", lambda of: scenarios.after_204(of["no_content"])),
]
GZIP: list[Column] = [
    ("`Sec-Fetch-Mode`", lambda of: scenarios.fetch_mode(of["gzip"])),
    ("`Accept-Encoding`", lambda of: scenarios.encodings(of["gzip"])),
    ("events in gzip", lambda of: scenarios.in_gzip(of["gzip"])),
]


def table(chosen: list[Client], found: dict[str, dict[str, Run]], columns: list[Column]) -> str:
    lines = ["| Client | " + " | ".join(head for head, _ in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    parsing = columns in (FRAMES, RESUMING)
    for client in chosen:
        if parsing and client.by == "nobody":
            continue  # output that does not parse has nothing to show here
        runs = found[client.name]
        cells = [cell(runs) if runs else "not installed" for _, cell in columns]
        lines.append(f"| {client.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def version_of(client: Client, runs: dict[str, Run]) -> str:
    if client.command[0] == "chromium" and client.needs and client.needs.exists():
        printed_version = subprocess.run(
            ["chromium", "--version"],  # noqa: S607 - whichever is on the PATH
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        browser = " ".join(printed_version.split()[:2])
        if client.command[1:]:
            package = json.loads((client.needs / "package.json").read_text())
            return f"{package['name']} {package['version']}, {browser}"
        return browser
    for made in runs.values():
        for _, item in made.items:
            if "version" in item:
                return str(item["version"])
    return "not installed"


def printed(chosen: list[Client], found: dict[str, dict[str, Run]]) -> str:
    versions = ["| Client | Version | What reconnects |", "|---|---|---|"]
    for client in chosen:
        version = version_of(client, found[client.name])
        versions.append(f"| {client.name} | {version} | {client.by} |")
    sections = [
        f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}.",
        "\n".join(versions),
        "### What a program gets besides the events",
        table(chosen, found, FRAMES),
        "### `Last-Event-ID` after a cut",
        table(chosen, found, RESUMING),
        "### Ends",
        table(chosen, found, ENDS),
        "### Headers and compression",
        table(chosen, found, GZIP),
    ]
    return "\n\n".join(sections)


def main() -> None:
    everyone = clients()
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CLIENT", help="parts of their names")
    names = parser.parse_args().names
    chosen = [c for c in everyone if not names or any(n.lower() in c.name.lower() for n in names)]
    if not chosen:
        parser.error("unknown client; known ones are: " + ", ".join(c.name for c in everyone))
    print(printed(chosen, asyncio.run(measure(chosen))))


if __name__ == "__main__":
    main()
