"""scripts/audit fails for known vulnerabilities, and distinguishes inconclusive results."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BAD = {
    "id": "PYSEC-2026-1",
    "summary": "Reads what it should not.",
    "affected": [
        {
            "package": {"name": "starlette", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.1"}]}],
        }
    ],
}


@contextmanager
def index(answers: dict[str, Any], status: int = 200) -> Iterator[str]:
    """A server like OSV's, with the known vulnerabilities of packages."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            package = json.loads(self.rfile.read(size))["package"]["name"]
            body = json.dumps(answers.get(package, {})).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(url: str, *files: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["scripts/audit", *files],
        cwd=ROOT,
        env={**os.environ, "EVENTSTREAMS_AUDIT_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if "pip-audit can't be installed" in done.stderr:
        if os.environ.get("CI"):
            pytest.fail("no pip-audit, and in CI none may be missing", pytrace=False)
        pytest.skip("pip-audit can't be installed here")
    return done


def test_without_known_vulnerabilities_the_audit_passes() -> None:
    with index({}) as url:
        done = audit(url, "runtime", "audit")
    assert done.returncode == 0, done.stderr
    assert "runtime: " in done.stdout
    assert "audit: " in done.stdout
    assert done.stdout.count("no known vulnerability") == 2


def test_a_known_vulnerability_fails_and_is_named_with_its_fix() -> None:
    with index({"starlette": {"vulns": [BAD]}}) as url:
        done = audit(url, "runtime", "audit")
    assert done.returncode == 1, done.stderr
    assert "PYSEC-2026-1, mended in 999.1" in done.stdout
    assert "starlette" in done.stdout


@pytest.mark.parametrize("status", [404, 500])
def test_an_index_without_answer_is_inconclusive(status: int) -> None:
    with index({}, status) as url:
        done = audit(url, "runtime")
    assert done.returncode == 75
    assert "could not be checked" in done.stderr


def test_an_unreachable_index_is_inconclusive() -> None:
    done = audit("http://127.0.0.1:9/v1/query", "runtime")
    assert done.returncode == 75
    assert "could not be checked" in done.stderr
