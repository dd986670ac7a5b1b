"""Requests get the responses of EventGate 1.8.4, recorded by verdicts/eventgate.mjs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.intake import TEST, Place, place

RECORDED = Path(__file__).parents[1] / "schemas" / "verdicts" / "eventgate.ndjson"
FILLED = {"id", "dt", "request_id"}
"""Fields of meta that eventgate-wikimedia fills in, and EventGate alone does not."""
DIFFERENT = {"body  ": "A body of white space alone is a syntax error (500)"}
"""Maps names in the record to rows of docs/compatibility.md."""
DOCS = Path(__file__).parents[2] / "docs" / "compatibility.md"
ANSWERS_MIN = 90


def _without_filled(event: Any) -> Any:
    if not isinstance(event, dict) or not isinstance(event.get("meta"), dict):
        return event
    meta = {name: value for name, value in event["meta"].items() if name not in FILLED}
    return {**event, "meta": meta}


def _texts(answer: str) -> Any:
    """Return what a response says about each rejected event."""
    if not answer.startswith('{"invalid"'):
        return None
    body = json.loads(answer)
    invalid = [(_without_filled(e["event"]), e["context"]) for e in body["invalid"]]
    return invalid, [_without_filled(e["event"]) for e in body.get("error", [])]


def _is_hasty(recorded: dict[str, Any]) -> bool:
    """These events are written some time after the response, so they are compared last."""
    return bool(recorded["status"] == 202)


async def _differences(here: Place) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    lines = [json.loads(line) for line in RECORDED.read_text("utf-8").strip().split("\n")]
    assert len(lines) >= ANSWERS_MIN
    for recorded in sorted(lines, key=_is_hasty):
        before = len(await here.events(TEST))
        answer = await here.http.post(
            f"/v1/events{recorded['query']}",
            content=base64.b64decode(recorded["body"]),
            headers=recorded["headers"],
        )
        theirs = (recorded["status"], recorded["reason"], _texts(recorded["answer"]))
        ours = (answer.status_code, answer.reason_phrase, _texts(answer.text))
        if ours[:2] != theirs[:2] or (theirs[0] < 500 and ours[2] != theirs[2]):
            found[recorded["name"]] = (ours, theirs)
        elif recorded["status"] != 202:
            written = [
                json.dumps(_without_filled(d)) for d in (await here.documents(TEST))[before:]
            ]
            theirs_written = [
                json.dumps(_without_filled(json.loads(text))) for text in recorded["written"]
            ]
            if written != theirs_written:
                found[recorded["name"]] = (written, theirs_written)
    return found


@pytest.mark.anyio
async def test_responses_and_records_equal_eventgates(tmp_path: Path) -> None:
    async with place(tmp_path, compatibility="eventgate") as here:
        found = await _differences(here)
    assert found.keys() == DIFFERENT.keys(), found


def test_every_different_response_has_a_row_in_the_docs() -> None:
    text = DOCS.read_text("utf-8")
    assert all(f"| {row} |" in text for row in DIFFERENT.values())
