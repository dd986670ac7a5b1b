"""TLS and SASL: the settings become connection options, and a real broker accepts them."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import ConfigError, LogUnavailable
from eventstreams.log.kafka.brokers import connection_options
from eventstreams.model.event import Partition, Record
from tests.support.kafka_node import KafkaNode, new_topic, own_node, require
from tests.support.kafka_tools import follow_until, opened, values

STORE_PASSWORD = "in-tests-only"
PASSWORD = "päss=wörd,1"


class Secured(NamedTuple):
    node: KafkaNode
    certificate: Path
    password_file: Path


# The settings


def test_there_are_no_security_options_without_settings() -> None:
    options = connection_options(KafkaSettings(client_id="me", request_timeout_s=3))
    assert options == {
        "client_id": "me",
        "request_timeout_ms": 3000,
        "max_idle_ms": 540_000,
        "security_protocol": "PLAINTEXT",
    }


def test_a_password_is_its_file_without_the_final_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f" {PASSWORD} \r\n", encoding="utf-8")
    options = connection_options(
        KafkaSettings(
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="me",
            sasl_password_file=str(file),
        )
    )
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["sasl_plain_username"] == "me"
    assert options["sasl_plain_password"] == f" {PASSWORD} "
    assert "ssl_context" not in options


@pytest.mark.parametrize("check", [True, False])
def test_certificates_are_always_checked_and_host_names_by_default(check: bool) -> None:
    options = connection_options(KafkaSettings(security_protocol="SSL", ssl_check_hostname=check))
    context = options["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is check


@pytest.mark.parametrize(
    "settings",
    [
        {"security_protocol": "SASL_SSL", "sasl_password_file": "/nowhere/password"},
        {"security_protocol": "SASL_PLAINTEXT"},
        {"security_protocol": "SSL", "ssl_cafile": "/nowhere/ca.pem"},
        {"security_protocol": "SSL", "ssl_certfile": __file__, "ssl_keyfile": __file__},
    ],
)
def test_unusable_files_raise_config_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"log\.kafka"):
        connection_options(KafkaSettings(sasl_username="me", **settings))


# A real broker


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    password_file = directory / "password"
    password_file.write_text(PASSWORD + "\n", encoding="utf-8")
    store, certificate = directory / "store.p12", directory / "certificate.pem"
    if shutil.which("keytool"):
        _make_certificate(store, certificate)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required user_me="
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "listeners": "PLAINTEXT://127.0.0.1:@PORT1@,CONTROLLER://127.0.0.1:@PORT2@,"
        "SASL_PLAINTEXT://127.0.0.1:@PORT3@,SASL_SSL://127.0.0.1:@PORT4@",
        "ssl.keystore.location": str(store),
        "ssl.keystore.password": STORE_PASSWORD,
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        own = f"listener.name.{listener}"
        properties |= {
            f"{own}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            f"{own}.plain.sasl.jaas.config": f'{plain}"{_escaped(PASSWORD)}";',
            f"{own}.scram-sha-256.sasl.jaas.config": scram,
        }
    with own_node(properties, users={"me": "scram-password"}) as node:
        require(node)
        yield Secured(node, certificate, password_file)


def _escaped(text: str) -> str:
    """Return the text as it is written in a properties file."""
    return "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in text)


def _make_certificate(store: Path, certificate: Path) -> None:
    keytool = ["keytool", "-keystore", str(store), "-storepass", STORE_PASSWORD, "-alias", "node"]
    make = [*keytool, "-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-dname", "CN=node"]
    subprocess.run([*make, "-ext", "SAN=ip:127.0.0.1"], check=True, capture_output=True)
    export = [*keytool, "-exportcert", "-rfc", "-file", str(certificate)]
    subprocess.run(export, check=True, capture_output=True)


def _settings(secured: Secured, protocol: str, mechanism: str) -> tuple[str, dict[str, Any]]:
    if mechanism != "PLAIN":
        secured.password_file.with_name("scram").write_text("scram-password")
    file = (
        secured.password_file if mechanism == "PLAIN" else secured.password_file.with_name("scram")
    )
    settings = {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_username": "me",
        "sasl_password_file": str(file),
        "ssl_cafile": str(secured.certificate) if "SSL" in protocol else None,
        "request_timeout_s": 5.0,
    }
    return f"127.0.0.1:{secured.node.port_of(protocol)}", settings


@pytest.mark.anyio
@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_all_methods_work_over_a_secured_listener(
    secured: Secured, protocol: str, mechanism: str
) -> None:
    address, settings = _settings(secured, protocol, mechanism)
    async with opened(address, **settings) as log:
        topic = new_topic()
        await log.create_topic(topic, 1)
        follower = log.follow({Partition(topic, 0): 0})
        await log.append([Record(topic, b"secret")])
        assert values(await follow_until(follower, 1)) == [b"secret"]
        assert values(list((await log.read(Partition(topic, 0), 0, 100)).events)) == [b"secret"]


@pytest.mark.anyio
@pytest.mark.kafka
async def test_refused_credentials_are_reported(secured: Secured, tmp_path: Path) -> None:
    address, settings = _settings(secured, "SASL_SSL", "PLAIN")
    wrong = tmp_path / "wrong"
    wrong.write_text("guessed")
    with pytest.raises(LogUnavailable, match="Authentication failed"):
        async with opened(address, **settings | {"sasl_password_file": str(wrong)}):
            pass
    with pytest.raises(LogUnavailable, match="certificate"):
        async with opened(address, **settings | {"ssl_cafile": None}):
            pass
