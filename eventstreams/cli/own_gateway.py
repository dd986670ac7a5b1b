"""Reads a log without a running gateway, by starting one that serves this command alone.

It is a process of its own on the loopback interface, without intake, demo feed, relays and
retention, so it changes nothing in the log, which another gateway may be using.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from eventstreams.cli.config import read_config
from eventstreams.cli.destination import has_embedded_log, log_settings
from eventstreams.config.settings import LogSettings, with_paths_from
from eventstreams.errors import EventStreamsError
from eventstreams.model.catalogue import Catalogue

_UNTIL_CLOSED = '"$@" & child=$!; exec 2>&-; read -r _; kill $child; wait $child'
"""Runs a command until standard input is closed, so that it ends whenever this process ends."""


@contextlib.contextmanager
def own_gateway(*, config: Path | None, data_dir: str | None, kafka: str | None) -> Generator[str]:
    """Run a gateway over the log for the length of the block. Give its URL.

    Raises ConfigError, click.UsageError, and EventStreamsError if it cannot start.
    """
    if data_dir is not None and not has_embedded_log(data_dir):
        raise click.UsageError(f"--data-dir: there is no log in {data_dir}")
    settings, catalogue = read_config(config)
    log = log_settings(settings.log, data_dir, kafka)
    with tempfile.TemporaryDirectory(prefix="eventstreams-") as folder:
        file = _configuration(Path(folder), log, catalogue)
        serve = (sys.executable, "-m", "eventstreams", "serve", "--config", str(file))
        with subprocess.Popen(  # noqa: S603 - our own program
            ["/bin/sh", "-c", _UNTIL_CLOSED, "sh", *serve],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this command
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            rest = threading.Thread(target=process.stderr.read, daemon=True)
            try:
                url = _url(process.stderr)
                rest.start()
                yield url
            finally:
                process.stdin.close()
                process.wait()
                if rest.ident is not None:
                    rest.join()  # it holds a lock that closing the pipe needs


def _configuration(folder: Path, log: LogSettings, catalogue: Catalogue) -> Path:
    """Write settings and catalogue, and return the path of the former. JSON is YAML."""
    streams = {
        stream.name: {
            "topics": stream.topics,
            "topics_allowed": sorted(stream.topics_allowed),
            "stream_aliases": stream.aliases,
            "redact": stream.redact,
        }
        for stream in catalogue.streams.values()
    }
    settings: dict[str, Any] = {
        "catalogue": "streams.yaml",
        "only": "gateway",
        "http": {"port": 0, "access_log": False},
        "log": msgspec.to_builtins(with_paths_from(log, Path.cwd())),
        "intake": {"error_stream": None},
    }
    (folder / "streams.yaml").write_bytes(msgspec.json.encode({"streams": streams}))
    file = folder / "eventstreams.yaml"
    file.write_bytes(msgspec.json.encode(settings))
    return file


def _url(lines: IO[bytes]) -> str:
    """Return the URL on which the gateway listens. Raises EventStreamsError if it ends first."""
    last = "it gave no reason"
    for line in lines:
        try:
            record: Any = json.loads(line)
        except ValueError:
            last = line.decode("utf-8", "replace").strip().removeprefix("Error: ") or last
            continue
        if record.get("url"):
            return str(record["url"])
        last = record.get("message") or last
    raise EventStreamsError(f"the log cannot be read: {last}")
