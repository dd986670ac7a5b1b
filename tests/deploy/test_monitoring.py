"""The dashboard, the alerts and the scrape of a real gateway agree on every metric and label."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from eventstreams import errors
from eventstreams import errors as of_access
from eventstreams.metrics import Metrics
from tests.support.gateway import Site
from tests.support.ports import free_port
from tests.support.process import configured, serving
from tests.support.programs import needed
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio
CONFIG = Path(__file__).parents[2] / "config"
OF_A_SCRAPE = {"job", "instance"}
DASHBOARD: dict[str, Any] = json.loads((CONFIG / "grafana" / "eventstreams.json").read_text())
VARIABLES = {"$__rate_interval": "5m", "$job": "eventstreams", "$instance": ".*"}


def _samples() -> dict[str, set[str]]:
    """Return the name and labels of every sample."""
    samples = {"up": set[str]()}
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            labels = set(metric._labelnames)
            match metric:
                case Counter():
                    samples[f"{family.name}_total"] = labels
                case Histogram():
                    samples[f"{family.name}_bucket"] = labels | {"le"}
                    samples[f"{family.name}_sum"] = samples[f"{family.name}_count"] = labels
                case _:
                    samples[family.name] = labels
    of_the_process = (f for f in Metrics().registry.collect() if f.name.startswith("process_"))
    return samples | {sample.name: set() for family in of_the_process for sample in family.samples}


SAMPLES = _samples()


def promtool(*arguments: str, given: str = "") -> None:
    """Run promtool. Raises AssertionError with its errors."""
    done = subprocess.run(
        [needed("promtool"), *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def of_dashboard() -> Iterator[tuple[str, str]]:
    """Yield each query, with its variables filled in, and its legend."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression, target["legendFormat"]


def of_alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((CONFIG / "prometheus" / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:eventstreams_|process_)\w+|\bup\b", expression))


def assert_has(expression: str) -> set[str]:
    """Check that the metrics and labels of a query exist; return the labels of its result."""
    names = named(expression)
    assert names, expression
    assert names <= SAMPLES.keys(), expression
    for name, selector in re.findall(r"\b(\w+)\{(.*?)\}", expression):
        asked = set(re.findall(r"(\w+)\s*[=!]~?", re.sub(r'"[^"]*"', "", selector)))
        assert asked <= SAMPLES[name] | OF_A_SCRAPE, expression
    labels = set().union(*(SAMPLES[name] for name in names)) | OF_A_SCRAPE
    kept = re.findall(r"\bby \((.*?)\)", expression)
    by = {label.strip() for each in kept for label in each.split(",")}
    assert by <= labels, expression
    return by if kept else labels


async def test_a_scrape_is_valid_and_complete(embedded: Site, tmp_path: Path) -> None:
    topic = await embedded.topic()
    port = free_port()
    config = configured(tmp_path, embedded, topic, metrics={"port": port})
    async with serving(config), httpx.AsyncClient(timeout=PATIENCE_S) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    promtool("check", "metrics", given=answer.text)
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in SAMPLES} - {
        "up"
    } <= families


def test_the_dashboard_shows_every_metric() -> None:
    shown = set().union(*(named(expression) for expression, _ in of_dashboard()))
    assert shown == SAMPLES.keys()


def test_metrics_of_the_dashboard_exist() -> None:
    for expression, legend in of_dashboard():
        labels = assert_has(expression)
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, (expression, legend)
        for name in named(expression):
            assert f'{name}{{job="eventstreams", instance=~".*"' in expression, expression


def test_prometheus_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query:{number}", "expr": expression}
        for number, (expression, _) in enumerate(of_dashboard())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_panels_have_units_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "job", "instance"}
    for name in ("job", "instance"):
        assert named(variables[name]["definition"]) == {"eventstreams_clients"}


def test_metrics_of_the_alerts_exist() -> None:
    for rule in of_alerts():
        labels = assert_has(rule["expr"])
        said = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_each_alert_fires_exactly_when_it_should() -> None:
    folder = CONFIG / "prometheus"
    promtool("check", "config", str(folder / "prometheus.yaml"))
    promtool("test", "rules", str(folder / "alerts.test.yaml"))
    tested = yaml.safe_load((folder / "alerts.test.yaml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in of_alerts()}


def test_refusals_in_alerts_exist() -> None:
    for rule in of_alerts():
        for codes in re.findall(r'code!?~"(.*?)"', rule["expr"]):
            for code in codes.split("|"):
                assert hasattr(errors, code) or hasattr(of_access, code), code
