"""`produce` against running gateways, as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.logs import documents_in
from tests.support.upstream import PATIENCE_S, Gateway, gateway, refusal, upstream

TOPIC = "eventstreams.test"
LISTED = {"streams": {"s": {"stream": "s", "stream_aliases": ["t"], "schema_title": "test/event"}}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway") / "data", "--no-demo") as running:
        yield running


def produce(
    folder: Path, *arguments: str, given: str = "", stream: str = "test"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eventstreams", "produce", "--stream", stream, *arguments]
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_events_reach_the_gateway_from_any_folder(served: Gateway, tmp_path: Path) -> None:
    done = produce(tmp_path, "--url", served.url, '{"hello": "world"}', '{"test": "b"}')
    assert done.returncode == 0, done.stderr
    assert f"appended 2 events to the gateway at {served.url}" in done.stdout
    first, second = documents_in(served.data, TOPIC)[-2:]
    assert (first["hello"], second["test"]) == ("world", "b")
    assert first["meta"]["stream"] == TOPIC
    assert first["$schema"] == "/test/event/1.0.0"
    assert list(tmp_path.iterdir()) == [], "no log is made here"


def test_a_line_that_the_schema_rejects_is_named(served: Gateway, tmp_path: Path) -> None:
    lines = '{"test":"a"}\n{"test":1}\n{"test":"c"}\n'
    done = produce(tmp_path, "--url", served.url, given=lines)
    assert done.returncode == 1
    assert "Error: stdin:2: '.test' should be string" in done.stderr
    skipped = produce(tmp_path, "--url", served.url, "--skip-bad", given=lines)
    assert skipped.returncode == 0
    assert "stdin:2: '.test' should be string" in skipped.stderr
    assert "appended 2 events" in skipped.stdout
    assert "skipped 1 invalid line" in skipped.stdout


def test_many_lines_are_posted_in_order(served: Gateway, tmp_path: Path) -> None:
    lines = "".join(f'{{"test":"{n}","pad":"{"x" * 3000}"}}\n' for n in range(450))
    assert produce(tmp_path, "--url", served.url, given=lines).returncode == 0
    found = [document["test"] for document in documents_in(served.data, TOPIC)[-450:]]
    assert found == [str(n) for n in range(450)]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ('{"meta":{"stream":"other"}}', "its meta.stream is 'other', not 'eventstreams.test'"),
        ('{"meta":{"stream":"test"}}', "use the name eventstreams.test"),
    ],
)
def test_an_event_of_another_stream_is_rejected(
    served: Gateway, tmp_path: Path, event: str, message: str
) -> None:
    done = produce(tmp_path, "--url", served.url, event)
    assert done.returncode == 1
    assert "Error: argument 1: " in done.stderr
    assert message in done.stderr


def test_an_unknown_stream_gets_the_nearest_name(served: Gateway, tmp_path: Path) -> None:
    done = produce(tmp_path, "--url", served.url, "{}", stream="tset")
    assert done.returncode == 2
    assert "the gateway has no stream 'tset'; did you mean test?" in done.stderr


def test_produce_without_a_gateway_fails_and_appends_nothing(tmp_path: Path) -> None:
    done = produce(tmp_path, "--url", "http://127.0.0.1:9", '{"test":"a"}')
    assert done.returncode == 1
    assert "no gateway can be reached at http://127.0.0.1:9" in done.stderr
    assert "`eventstreams serve` starts one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_server_is_not_taken_for_a_gateway(tmp_path: Path) -> None:
    with upstream(refusal("404 Not Found", b"", "connection: close")) as server:
        done = produce(tmp_path, "--url", server.url, "{}")
    assert done.returncode == 1
    assert f"{server.url}/v2/streams: 404 Not Found" in done.stderr


def test_produce_retries_while_the_gateway_is_busy(tmp_path: Path) -> None:
    close = "connection: close"
    answers = (
        refusal("200 OK", json.dumps(LISTED).encode(), close),
        refusal("200 OK", b'{"$id":"/test/event/1.2.0"}', close),
        refusal("503 Service Unavailable", b"", close, "retry-after: 0"),
        refusal("201 Created", b"", close),
    )
    with upstream(*answers) as server:
        done = produce(tmp_path, "--url", server.url, "{}", stream="t")
        requests = [server.requests.get(timeout=PATIENCE_S).target for _ in answers]
    assert done.returncode == 0, done.stderr
    post = "/v1/events?stream=s&schema_uri=%2Ftest%2Fevent%2F1.2.0"
    assert requests == ["/v2/streams", "/v1/schemas/test/event/latest", post, post]


def test_a_refused_request_is_reported_with_its_reason(tmp_path: Path) -> None:
    close = "connection: close"
    answers = (
        refusal("200 OK", json.dumps(LISTED).encode(), close),
        refusal("200 OK", b"{}", close),
        refusal("401 Unauthorized", b'{"detail":"Send a key"}', close),
    )
    key = tmp_path / "key"
    key.write_text("secret\n")
    with upstream(*answers) as server:
        done = produce(tmp_path, "--url", server.url, "--token-file", str(key), "{}", stream="s")
        requests = [server.requests.get(timeout=PATIENCE_S) for _ in answers]
    assert done.returncode == 1
    assert "401 Unauthorized: Send a key" in done.stderr
    assert requests[-1].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partition", "1"], "--partition needs --data-dir or --kafka"),
        (["--timestamp", "now"], "--timestamp needs --data-dir or --kafka"),
        (["--url", "ftp://x"], "is not the URL of a gateway"),
        (["--url", "http://127.0.0.1:9", "--data-dir", "d"], "--url has no effect with --data-dir"),
        (["--token-file", "nope"], "--token-file: nope: No such file or directory"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = produce(tmp_path, *arguments, "{}")
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
