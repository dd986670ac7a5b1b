"""What commands print of the texts that servers send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from tests.support.upstream import OK, TailProcess, frame, refusal, upstream

HOSTILE = "\x1b[2J\x9b31m\u202egnp"
SHOWN = r"\x1b[2J\u009b31m\u202egnp"
REFUSED = refusal("400 Bad Request", json.dumps({"title": "No", "detail": HOSTILE}).encode())


def spec(stream: str) -> bytes:
    parameter = {"schema": {"items": {"enum": [stream]}}}
    paths = {"/v2/stream/{streams}": {"get": {"parameters": [parameter]}}}
    return refusal(
        "200 OK", json.dumps({"paths": paths}).encode(), "content-type: application/json"
    )


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        (REFUSED, ["export", "x", "-o", "x.ndjson", "--url"]),
        (REFUSED, ["produce", "--stream", "x", "{}", "--url"]),
        (REFUSED, ["relay", "--streams", "eventstreams.test", "--data-dir", "data"]),
        (spec(HOSTILE), ["verify"]),
    ],
    ids=["export", "produce", "relay", "verify"],
)
def test_texts_of_servers_are_printed_without_control_characters(
    answer: bytes, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with upstream(answer) as server:
        result = CliRunner().invoke(main, [*arguments, server.url])
    assert result.exit_code != 0
    assert SHOWN in result.stderr
    assert "".join(result.stderr.splitlines()).isprintable()


def test_gaps_of_a_stream_are_printed_without_control_characters() -> None:
    gap = frame(json.dumps({"message": HOSTILE}), "a", event="gap")
    with upstream(OK + gap + frame('{"n":1}', "b")) as server:
        _, stderr = TailProcess("x", "--url", server.url, "-n", 1).end()
    assert stderr == f"gap: {SHOWN}\n"
