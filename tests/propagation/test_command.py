"""The command `propagate`, its port, and dry runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from eventstreams.cli.propagate import command
from eventstreams.config.settings import SqliteSettings
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from eventstreams.web.propagation import PropagationApp
from tests.propagation.stage import event, running, write_rules

KEY = b"k" * 32
RULES = """
rules:
  purge:
    topic: page
    match: {meta: {domain: '/wikipedia/'}}
    exec: {method: purge, uri: 'http://cache.test/{{message.title}}'}
  note:
    topic: note
    exec: {produce: {meta: {stream: test}, text: '{{message.text}}'}}
"""


def run(*arguments: str, given: bytes | None = None) -> Any:
    return CliRunner().invoke(command, arguments, input=given, catch_exceptions=False)


def write(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def page(title: str = "A", domain: str = "en.wikipedia.org") -> dict[str, Any]:
    made = event("page", title=title)
    made["meta"]["domain"] = domain
    return made


def test_trying_rules_on_events_shows_which_rule_takes_which_and_its_request(
    tmp_path: Path,
) -> None:
    rules = write(tmp_path, "rules.yaml", RULES)
    events = [page(), page(domain="other.org"), event("note", text="x"), page(title="ä b")]
    lines = "\n".join(map(json.dumps, events))
    done = run("test", rules, "-", given=lines.encode())
    assert done.exit_code == 0
    shown = [json.loads(line) for line in done.output.splitlines()]
    assert [(each["line"], each["rule"]) for each in shown] == [
        (1, "purge"), (2, None), (3, "note"), (4, "purge")
    ]  # fmt: skip
    assert shown[0]["actions"] == [
        {
            "method": "PURGE",
            "uri": "http://cache.test/A",
            "headers": {
                "user-agent": "eventstreams-propagate/change-propagation",
                "x-request-id": "request-1",
                "x-triggered-by": "req:request-1,page:/sample/uri",
            },
        }
    ]
    assert shown[2]["actions"] == [{"produce": [{"meta": {"stream": "test"}, "text": "x"}]}]
    assert shown[3]["actions"][0]["uri"] == "http://cache.test/%C3%A4%20b"


def test_an_event_that_cannot_be_acted_on_is_reported(tmp_path: Path) -> None:
    rules = write(tmp_path, "rules.yaml", RULES.replace("message.title", "message.no.title"))
    done = run("test", rules, "-", given=json.dumps(page()).encode() + b"\n{\n")
    assert done.exit_code == 1
    assert "has no value" in done.output
    assert "not JSON" in done.output


def test_a_dry_run_prints_actions_and_carries_out_none(tmp_path: Path) -> None:
    rules = write(tmp_path, "rules.yaml", RULES)
    data = tmp_path / "data"

    async def fill() -> None:
        log = SqliteLog(directory=data, settings=SqliteSettings())
        await log.start()
        values = [json.dumps(page(title)).encode() for title in "ABC"]
        await log.append([Record("page", value) for value in values])
        await log.append([Record("page", values[0], timestamp_ms=1000)])
        await log.aclose()

    asyncio.run(fill())
    done = run("--rules", rules, "--data-dir", str(data), "--dry-run", "--since", "-5m")
    assert done.exit_code == 0
    shown = [json.loads(line) for line in done.output.splitlines()]
    assert [(each["offset"], each["actions"][0]["uri"]) for each in shown][:3] == [
        (n, f"http://cache.test/{title}") for n, title in enumerate("ABC")
    ]
    assert not list(data.glob("propagation*"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--rules FILE is needed"),
        (["--rules", "{rules}", "--dry-run", "--since", "soon", "--data-dir", "x"], "not a time"),
        (["--rules", "{rules}", "--kafka", "nowhere"], "not HOST:PORT"),
        (["--rules", "{rules}", "--kafka", "a:1", "--data-dir", "b"], "cannot be used together"),
    ],
)
def test_wrong_usage_is_reported(tmp_path: Path, arguments: list[str], problem: str) -> None:
    rules = write(tmp_path, "rules.yaml", RULES)
    done = run(*(each.format(rules=rules) for each in arguments))
    assert done.exit_code == 2
    assert problem in done.output


@pytest.mark.anyio
async def test_operators_see_rules_and_pause_them_with_the_key(tmp_path: Path) -> None:
    text = "service: s\nrules: {a/b: {topic: t}, r: {topic: t, exec: {uri: 'http://x/'}}}"
    loaded = write_rules(tmp_path, text.replace("a/b", "a.b"))
    async with running(loaded) as stage:
        app = PropagationApp(service=stage.service, metrics=stage.metrics, admin_key=KEY)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
            key = {"authorization": f"Bearer {KEY.decode()}"}
            state = (await client.get("/v2/propagation")).json()
            assert [rule["name"] for rule in state["rules"]] == ["a.b", "r"]
            assert (await client.post("/v2/propagation/r/pause")).status_code == 401
            wrong = {"authorization": "Bearer wrong"}
            assert (await client.post("/v2/propagation/r/pause", headers=wrong)).status_code == 401
            none = await client.post("/v2/propagation/none/pause", headers=key)
            assert none.status_code == 404
            assert stage.service.workers["r"].paused is False
            paused = await client.post("/v2/propagation/r/pause", headers=key)
            assert (paused.status_code, paused.json()["paused"]) == (200, True)
            await stage.put("t", event("t"))
            lag = (await client.get("/v2/propagation")).json()["rules"][1]
            assert lag["paused"] is True
            await client.post("/v2/propagation/r/resume", headers=key)
            await stage.idle()
            assert len(stage.target.calls) == 1
            metrics = (await client.get("/metrics")).text
            line = 'eventstreams_propagation_events_total{outcome="processed",rule="r"} 1.0'
            assert line in metrics
            assert (await client.get("/readyz")).json() == {"ready": True, "troubles": {}}
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v2/other")).status_code == 404
            assert (await client.delete("/v2/propagation")).status_code == 404


@pytest.mark.anyio
async def test_without_a_key_rules_cannot_be_paused(tmp_path: Path) -> None:
    loaded = write_rules(tmp_path, "rules: {r: {topic: t}}")
    async with running(loaded) as stage:
        app = PropagationApp(service=stage.service, metrics=stage.metrics, admin_key=None)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
            headers = {"authorization": "Bearer "}
            answer = await client.post("/v2/propagation/r/pause", headers=headers)
            assert answer.status_code == 404
