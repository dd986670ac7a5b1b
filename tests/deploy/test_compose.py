"""Tests compose.yaml without a container engine: it matches the specification, and its broker,
topics and settings make a working gateway, with a real Kafka configured as by the image's program.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from compose_spec import PyCompose

from eventstreams.cli.config import read_config
from eventstreams.config.settings import KafkaSettings, LogSettings
from eventstreams.gateway import open_log
from eventstreams.model.catalogue import Catalogue
from tests.deploy.dockerfile import parse
from tests.support.kafka_node import SCRIPT, own_node, require
from tests.support.ports import free_port
from tests.support.process import serving
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio
TOP = Path(__file__).parents[2]
TEXT = (TOP / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
VOLUMES: dict[str, Any] = yaml.safe_load(TEXT)["volumes"]
BROKER = "kafka:9092"
WRAPPER = "kafka.docker.KafkaDockerWrapper"


def seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text[:-1])


def settings_file() -> Path:
    """The paths in the checkout for paths in the container."""
    (volume,) = SERVICES["gateway"]["volumes"]
    source, target, mode = volume.split(":")
    assert mode == "ro"
    return TOP / source / Path(SERVICES["gateway"]["command"][-1]).relative_to(target)


def test_the_compose_file_matches_the_specification() -> None:
    PyCompose.from_yaml(TEXT).validate()
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
    }
    assert {name for name in named if not name.startswith(".")} == set(VOLUMES)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("read_only: true", "read_only: perhaps"),
        ("condition: service_healthy", "condition: service_well"),
        ("stop_grace_period: 15s", "stop_grace_period: soon"),
        ("127.0.0.1:8092:8092", "127.0.0.1:web:8092"),
    ],
)
def test_unknown_compose_options_are_detected(right: str, wrong: str) -> None:
    assert right in TEXT
    with pytest.raises(ValueError, match=r"services\.\w+"):
        PyCompose.from_yaml(TEXT.replace(right, wrong))


def test_services_are_restricted_and_the_gateway_is_read_only() -> None:
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    gateway = SERVICES["gateway"]
    assert gateway["read_only"] is True
    assert [mount.partition(":")[0] for mount in gateway["tmpfs"]] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])


def test_the_gateway_waits_for_its_broker_and_can_drain() -> None:
    gateway = SERVICES["gateway"]
    settings, _ = read_config(settings_file())
    assert gateway["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "topics": {"condition": "service_completed_successfully"},
    }
    assert seconds(gateway["stop_grace_period"]) >= settings.fanout.drain_s + 5
    published = {int(port.split(":")[1]): int(port.split(":")[2]) for port in gateway["ports"]}
    assert set(published.values()) == {settings.http.port, settings.metrics.port}
    image = parse((TOP / "Dockerfile").read_text())[-1]
    assert settings.http.port in image.ports
    check = gateway["healthcheck"]["test"]
    assert check == ["CMD", *image.health[:2], image.health[2].replace("/healthz", "/readyz")]


def properties_of_the_image(environment: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the settings that the image of Apache Kafka derives from its environment."""
    jars = TOP / ".kafka" / f"jars-{SERVICES['kafka']['image'].rpartition(':')[2]}"
    for name in ("default", "mounted", "final", "data"):
        (folder / name).mkdir()
    logging = {"Configuration": {"Loggers": {"Root": {"level": "INFO"}, "Logger": []}}}
    for name in ("log4j2.yaml", "tools-log4j2.yaml"):
        (folder / "default" / name).write_text(yaml.safe_dump(logging))
    (folder / "default" / "server.properties").write_text("")
    given = {name: str(value) for name, value in environment.items()}
    given |= {"CLUSTER_ID": "5L6g3nShT-eMCtK--X86sw", "KAFKA_LOG_DIRS": str(folder / "data")}
    folders = "-D", folder / "default", "-M", folder / "mounted", "-F", folder / "final"
    done = subprocess.run(
        ["java", "-cp", f"{jars}/*", WRAPPER, "setup", *folders],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "final" / "server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.strip())


def topics_made(folder: Path) -> list[str]:
    """Return the topics that the service `topics` creates with kafka-topics.sh."""
    (folder / "kafka-topics.sh").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "kafka-topics.sh").chmod(0o755)
    shell, option, script = SERVICES["topics"]["command"]
    script = script.replace("$$", "$").replace("/opt/kafka/bin", str(folder))
    done = subprocess.run([shell, option, script], capture_output=True, text=True, check=True)
    asked = done.stdout.splitlines()
    assert all(f"--bootstrap-server {BROKER} --create --if-not-exists" in line for line in asked)
    return [topic for line in asked for topic in re.findall(r"--topic (\S+)", line)]


def on_loopback(properties: dict[str, str]) -> dict[str, str]:
    """Return the properties with free ports of this machine."""
    names = "kafka:9092", "kafka:9093", "PLAINTEXT://:9092", "CONTROLLER://:9093"
    ours = "127.0.0.1:@PORT1@", "127.0.0.1:@PORT2@"
    theirs = (*ours, f"PLAINTEXT://{ours[0]}", f"CONTROLLER://{ours[1]}")
    for name, value in properties.items():
        for old, new in zip(names, theirs, strict=True):
            value = value.replace(old, new)  # noqa: PLW2901
        properties[name] = value
    del properties["log.dirs"]  # scripts/kafka has its own folder
    return properties


@pytest.fixture
def catalogue() -> Catalogue:
    return read_config(settings_file())[1]


@pytest.mark.kafka
async def test_the_composed_gateway_serves(catalogue: Catalogue, tmp_path: Path) -> None:
    await asyncio.to_thread(subprocess.run, [SCRIPT, "fetch"], check=True)
    environment = SERVICES["kafka"]["environment"]
    found = await asyncio.to_thread(properties_of_the_image, environment, tmp_path)
    assert found["auto.create.topics.enable"] == "false"
    assert len(found) == len(environment)
    topics = await asyncio.to_thread(topics_made, tmp_path)
    assert sorted(topics) == sorted(catalogue.topics)
    with own_node(on_loopback(found)) as node:
        address = await asyncio.to_thread(require, node)
        kafka = KafkaSettings(bootstrap_servers=(address,))
        log = open_log(LogSettings(backend="kafka", kafka=kafka))
        await log.start()
        for topic in topics:
            await log.create_topic(topic, 1)
        await log.aclose()
        shutil.copytree(TOP / "config", tmp_path / "config", symlinks=True)
        config = tmp_path / "config" / settings_file().relative_to((TOP / "config").resolve())
        metrics_port = free_port()
        text = config.read_text()
        for old, new in {BROKER: address, "9108": str(metrics_port)}.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        config.write_text(text)
        async with serving(config) as (_, port), httpx.AsyncClient(timeout=PATIENCE_S) as client:
            url = f"http://127.0.0.1:{port}"
            async with client.stream("GET", f"{url}/v2/stream/mediawiki.recentchange") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        break
                else:
                    raise AssertionError("no event of the demo feed")
            assert (await client.get(f"{url}/readyz")).json()["ready"] is True
            scraped = await client.get(f"http://127.0.0.1:{metrics_port}/metrics")
            assert "eventstreams_log_reachable 1.0" in scraped.text
