"""The Kubernetes manifests: what Kubernetes' own schemas say, and that they fit the application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from eventstreams.cli.config import read_config
from eventstreams.settings import Settings
from tests.deploy.dockerfile import parse
from tests.web.gateway import Site

pytestmark = pytest.mark.anyio
TOP = Path(__file__).parents[2]
FOLDER = TOP / "config" / "kubernetes"
VERSIONS = ("1.29", "1.33", "1.37")
"""Of Kubernetes."""

KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / name).read_text())
}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of the ConfigMap, as they are where it is mounted."""
    for name, text in MANIFESTS["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    return read_config(tmp_path / Path(CONTAINER["args"][-1]).name)[0]


def mounts() -> dict[str, dict[str, Any]]:
    """By where they are in the container: the volume that is there."""
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    return {
        mount["mountPath"]: {**volumes[mount["name"]], **mount}
        for mount in CONTAINER["volumeMounts"]
    }


def test_every_file_is_applied() -> None:
    files = {file.name for file in FOLDER.iterdir()} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert len(MANIFESTS) == len(files)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_are_what_kubernetes_says(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_what_kubernetes_does_not_have_would_be_seen() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(MANIFESTS["Deployment"]))
    container = wrong["spec"]["template"]["spec"]["containers"][0]
    container["livenessprobe"] = container.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_settings_are_sound_and_their_files_are_mounted_or_in_the_image(
    settings: Settings,
) -> None:
    here = mounts()
    at = Path(CONTAINER["args"][-1]).parent
    assert here[str(at)]["configMap"] == {"name": MANIFESTS["ConfigMap"]["metadata"]["name"]}
    password = settings.log.kafka.sasl_password_file
    assert password is not None
    secret = here[str(Path(password).parent)]["secret"]
    assert (
        f"{secret['secretName']} --from-file={Path(password).name}="
        in (FOLDER / "kustomization.yaml").read_text()
    )
    image = parse((TOP / "Dockerfile").read_text())[-1]
    copied = {step.value.split()[-1] for step in image.steps if step.keyword == "COPY"}
    assert set(settings.schemas) <= copied
    assert settings.only == "gateway", "an intake that is open to all has no place here"


async def test_probes_ask_what_the_application_answers(settings: Settings, embedded: Site) -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": settings.http.port, "metrics": settings.metrics.port}
    asked = {
        name: CONTAINER[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert all(probe["port"] == "http" for probe in asked.values())
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        await gateway.parts.hub.feed.well.wait()
        statuses = [(await gateway.get(probe["path"])).status for probe in asked.values()]
        assert statuses == [200, 200, 200]
        gateway.parts.hub.stop_admitting()
        statuses = [(await gateway.get(probe["path"])).status for probe in asked.values()]
        assert statuses == [200, 200, 503], "what drains is alive, and gets nobody new"
    scraped = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(settings.metrics.port)


def test_it_has_time_to_get_out_of_the_way_and_to_drain(settings: Settings) -> None:
    program, pause_s = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    probe = CONTAINER["readinessProbe"]
    assert float(pause_s) >= probe["periodSeconds"] * probe["failureThreshold"]
    needed_s = float(pause_s) + settings.fanout.drain_s + 5
    assert POD["terminationGracePeriodSeconds"] >= needed_s


def test_all_of_it_is_about_the_same_pods() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    named = {port["name"] for port in CONTAINER["ports"]}
    assert {port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]} <= named
    let_in = MANIFESTS["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in let_in for port in rule["ports"]} == named


def test_the_broker_is_let_through(settings: Settings) -> None:
    (broker,) = settings.log.kafka.bootstrap_servers
    host, _, port = broker.partition(":")
    _, namespace, _ = host.split(".")
    out = MANIFESTS["NetworkPolicy"]["spec"]["egress"][-1]
    assert [each["port"] for each in out["ports"]] == [int(port)]
    (to,) = out["to"]
    assert to["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_the_container_may_nothing_that_it_does_not_need() -> None:
    image = parse((TOP / "Dockerfile").read_text())[-1]
    pod = POD["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == image.user
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    its = CONTAINER["securityContext"]
    assert its["readOnlyRootFilesystem"] is True
    assert its["allowPrivilegeEscalation"] is False
    assert its["capabilities"] == {"drop": ["ALL"]}
    assert {path for path, mount in mounts().items() if not mount.get("readOnly")} == {"/tmp"}
    assert POD["automountServiceAccountToken"] is False
    assert "memory" in CONTAINER["resources"]["limits"]
    (tagged,) = KUSTOMIZATION["images"]
    assert tagged == {
        "name": CONTAINER["image"],
        "newTag": image.labels["org.opencontainers.image.version"],
    }
