"""The Kubernetes manifests match Kubernetes' schemas and the application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from eventstreams.cli.config import read_config
from eventstreams.config.settings import Settings
from tests.deploy.dockerfile import parse
from tests.support.gateway import Site

pytestmark = pytest.mark.anyio
TOP = Path(__file__).parents[2]
FOLDER = TOP / "config" / "kubernetes"
VERSIONS = ("1.29", "1.33", "1.37")
"""The version of Kubernetes."""

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
    """Write the files of the ConfigMap where it is mounted."""
    for name, text in MANIFESTS["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    return read_config(tmp_path / Path(CONTAINER["args"][-1]).name)[0]


def mounts() -> dict[str, dict[str, Any]]:
    """Return the volume at each path of the container."""
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    return {
        mount["mountPath"]: {**volumes[mount["name"]], **mount}
        for mount in CONTAINER["volumeMounts"]
    }


def test_every_manifest_is_listed() -> None:
    files = {file.name for file in FOLDER.iterdir()} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert len(MANIFESTS) == len(files)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_match_the_kubernetes_schema(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_unknown_fields_of_manifests_are_detected() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(MANIFESTS["Deployment"]))
    container = wrong["spec"]["template"]["spec"]["containers"][0]
    container["livenessprobe"] = container.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_settings_and_their_files_are_available(
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
    assert settings.only == "gateway", "the intake must not be open to everyone"


async def test_probes_use_existing_paths(settings: Settings, embedded: Site) -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": settings.http.port, "metrics": settings.metrics.port}
    asked = {
        name: CONTAINER[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert all(probe["port"] == "http" for probe in asked.values())
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        await gateway.parts.hub.reachable.wait()
        statuses = [(await gateway.get(probe["path"])).status for probe in asked.values()]
        assert statuses == [200, 200, 200]
        gateway.parts.hub.stop_admitting()
        statuses = [(await gateway.get(probe["path"])).status for probe in asked.values()]
        assert statuses == [200, 200, 503], "a draining pod is alive, and gets no new clients"
    scraped = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(settings.metrics.port)


def test_pods_have_time_to_drain(settings: Settings) -> None:
    program, pause_s = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    probe = CONTAINER["readinessProbe"]
    assert float(pause_s) >= probe["periodSeconds"] * probe["failureThreshold"]
    needed_s = float(pause_s) + settings.fanout.drain_s + 5
    assert POD["terminationGracePeriodSeconds"] >= needed_s


def test_manifests_select_the_same_pods() -> None:
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


def test_the_network_policy_allows_the_broker(settings: Settings) -> None:
    (broker,) = settings.log.kafka.bootstrap_servers
    host, _, port = broker.partition(":")
    _, namespace, _ = host.split(".")
    out = MANIFESTS["NetworkPolicy"]["spec"]["egress"][-1]
    assert [each["port"] for each in out["ports"]] == [int(port)]
    (to,) = out["to"]
    assert to["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_the_container_has_minimal_privileges() -> None:
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
