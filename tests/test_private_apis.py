"""The private APIs of libraries that we use exist, and docs/architecture.md lists all of them.

A new version of a library may rename private names. These tests then report the missing name and
the version, while many other tests fail for unclear reasons.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = {
    "aiokafka": {"aiokafka", "aiokafka.errors", "aiokafka.helpers"},
    "uvicorn": {"uvicorn"},
    "sse_starlette": {"sse_starlette"},
}
"""The modules that a library documents, for libraries that do not document all."""
DISTRIBUTIONS = {"sse_starlette": "sse-starlette", "jwt": "PyJWT", "yaml": "PyYAML"}


class Import(NamedTuple):
    module: str
    name: str
    file: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Attributes(NamedTuple):
    """Attributes of a class and its instances that our subclasses and callers rely on."""

    module: str
    kind: str
    file: str
    names: str


RELIED_ON = [
    Attributes(
        "uvicorn.protocols.http.httptools_impl",
        "HttpToolsProtocol",
        "server/http1.py",
        "_start_asgi_task _unset_keepalive_if_required connection_lost connection_made "
        "data_received on_body on_header on_headers_complete on_message_begin on_message_complete "
        "on_response_complete on_url resume_writing send_400_response shutdown client connections "
        "cycle flow headers loop parser pipeline scope server_state tasks "
        "timeout_keep_alive_handler timeout_keep_alive_task transport",
    ),
    Attributes(
        "uvicorn.protocols.http.httptools_impl",
        "RequestResponseCycle",
        "server/http1.py",
        "body disconnected keep_alive message_event more_body response_complete response_started "
        "scope transport",
    ),
    Attributes(
        "uvicorn.protocols.http.flow_control",
        "FlowControl",
        "server/transports.py",
        "pause_reading resume_reading read_paused write_paused",
    ),
    Attributes(
        "uvicorn.server", "ServerState", "server/acceptor.py", "connections default_headers tasks"
    ),
    Attributes(
        "uvicorn",
        "Server",
        "server/drain.py",
        "capture_signals config force_exit main_loop on_tick server_state should_exit shutdown "
        "startup",
    ),
    Attributes("uvicorn", "Config", "server/drain.py", "http_protocol_class load loaded"),
    Attributes(
        "aiokafka.conn",
        "AIOKafkaConnection",
        "log/kafka/brokers.py",
        "close connected send",
    ),
    Attributes(
        "aiokafka.record.default_records",
        "DefaultRecordBatchBuilder",
        "log/kafka/records.py",
        "append build",
    ),
    Attributes(
        "aiokafka.record.memory_records",
        "MemoryRecords",
        "log/kafka/records.py",
        "has_next next_batch",
    ),
    Attributes(
        "sse_starlette.sse",
        "AppStatus",
        "web/selftest.py",
        "disable_automatic_graceful_drain",
    ),
]
CONNECTION_OPTIONS = (
    "client_id request_timeout_ms max_idle_ms security_protocol ssl_context sasl_mechanism "
    "sasl_plain_username sasl_plain_password"
)


def is_private(module: str) -> bool:
    library, *inner = module.split(".")
    if any(part.startswith("_") for part in inner):
        return True
    return library in PUBLIC and module not in PUBLIC[library]


def private_imports() -> Iterator[Import]:
    package = ROOT / "eventstreams"
    for file in sorted(package.rglob("*.py")):
        where = file.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (Import(a.name, "", where) for a in node.names if is_private(a.name))
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                for alias in node.names:
                    # `from aiokafka import conn` imports a private module.
                    inner = f"{module}.{alias.name}"
                    if is_private(module):
                        yield Import(module, alias.name, where)
                    elif module in PUBLIC and alias.name.islower() and inner not in PUBLIC[module]:
                        yield Import(inner, "", where)


IMPORTS = list(private_imports())


def loaded(module: str, name: str, file: str) -> Any:
    """Return the object. Fails with the version of the library and our file that needs it."""
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, AttributeError):
        pytest.fail(missing(distribution_of(module), f"{module}.{name}".rstrip("."), file))


def distribution_of(module: str) -> str:
    library = module.partition(".")[0]
    return DISTRIBUTIONS.get(library, library)


def missing(distribution: str, name: str, file: str) -> str:
    return (
        f"{distribution} {version(distribution)} has no {name}, which eventstreams/{file} uses; "
        "see the private APIs in docs/architecture.md"
    )


@pytest.mark.parametrize("each", IMPORTS, ids=str)
def test_private_names_of_libraries_exist(each: Import) -> None:
    loaded(*each)


@pytest.mark.parametrize("each", RELIED_ON, ids=lambda each: f"{each.module}.{each.kind}")
def test_private_attributes_of_libraries_exist(each: Attributes) -> None:
    kind = loaded(each.module, each.kind, each.file)
    distribution = distribution_of(each.module)
    users = "".join(f.read_text() for f in (ROOT / "eventstreams" / each.file).parent.glob("*.py"))
    for name in each.names.split():
        assert re.search(rf"\b{name}\b", users), f"nothing near {each.file} uses {name}"
        there = hasattr(kind, name) or assigns(kind, name)
        assert there, missing(distribution, f"{each.module}.{each.kind}.{name}", each.file)


def assigns(kind: type, name: str) -> bool:
    """Return whether a method of the class assigns this attribute."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # compiled
        return False
    return re.search(rf"\bself\.{name}\b.*=", source) is not None


def test_connections_to_kafka_accept_our_options() -> None:
    create = loaded("aiokafka.conn", "create_conn", "log/kafka/brokers.py")
    unknown = set(CONNECTION_OPTIONS.split()) - set(inspect.signature(create).parameters)
    assert not unknown, missing("aiokafka", f"aiokafka.conn.create_conn({unknown})", "log/kafka")


def test_the_documentation_lists_every_private_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, _, section = text.partition("## Private APIs of libraries")
    listed = set(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE))
    used = {each.module for each in IMPORTS} | {each.module for each in RELIED_ON}
    assert listed == used


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(
        r"`((?:eventstreams/|tests/|scripts/)?[\w/]+\.(?:py|yaml|md)|[\w/]+/)`", text
    )
    assert len(set(named)) > 40
    for path in named:
        folders = (ROOT, ROOT / "eventstreams", ROOT / "docs", ROOT / "eventstreams" / "log")
        assert any((folder / path).exists() for folder in folders), path
