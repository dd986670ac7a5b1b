"""Schemas are found by URI, and URIs give access to nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from eventstreams.errors import BadSchemaUri, SchemaError, SchemaNotFound
from eventstreams.schemas.repository import SchemaRepository
from tests.support.schema_folders import materialize, put, put_current, schema


def _repository(*bases: Path) -> SchemaRepository:
    return SchemaRepository(bases)


def test_a_schema_is_found_with_title_and_version(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/b/1.2.3", description="hello"))
    materialize(tmp_path)
    found = _repository(tmp_path).get("/a/b/1.2.3")
    assert (found.title, found.version, str(found.uri)) == ("a/b", (1, 2, 3), "/a/b/1.2.3")
    assert found.document["description"] == "hello"


@pytest.mark.parametrize("name", ["1.0.0.yaml", "1.0.0.json", "1.0.0"])
def test_any_content_type_is_found(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"a/{name}", schema("/a/1.0.0"))
    assert _repository(tmp_path).get("/a/1.0.0").title == "a"


def test_the_first_base_takes_precedence(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    put(first, "a/1.0.0.yaml", schema("/a/1.0.0", description="first"))
    put(second, "a/1.0.0.yaml", schema("/a/1.0.0", description="second"))
    put(second, "b/1.0.0.yaml", schema("/b/1.0.0"))
    repository = _repository(first, tmp_path / "not-there", second)
    assert repository.get("/a/1.0.0").document["description"] == "first"
    assert repository.get("/b/1.0.0").title == "b"


def test_found_schemas_are_cached_and_missing_ones_are_not(tmp_path: Path) -> None:
    repository = _repository(tmp_path)
    with pytest.raises(SchemaNotFound, match=r"/a/1\.0\.0: the schema does not exist"):
        repository.get("/a/1.0.0")
    file = put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.0"))
    found = repository.get("/a/1.0.0")
    file.unlink()
    assert repository.get("/a/1.0.0") is found


def test_references_are_followed_within_the_bases(tmp_path: Path) -> None:
    put(tmp_path / "1", "a/1.0.0.yaml", schema("/a/1.0.0", allOf=[{"$ref": "/f/1.0.0#"}]))
    put(tmp_path / "2", "f/1.0.0.yaml", schema("/f/1.0.0", required=["dt"]))
    found = _repository(tmp_path / "1", tmp_path / "2").get("/a/1.0.0")
    assert found.document["allOf"][0]["required"] == ["dt"]


def test_references_are_not_fetched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/f/1.0.0"
        put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.0", allOf=[{"$ref": uri}]))
        with pytest.raises(SchemaError):
            _repository(tmp_path).get("/a/1.0.0")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_circular_references_are_an_error(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        put(
            tmp_path,
            f"{name}/1.0.0.yaml",
            schema(f"/{name}/1.0.0", allOf=[{"$ref": f"/{other}/1.0.0"}]),
        )
    with pytest.raises(
        SchemaError, match=r"circular references: /a/1\.0\.0 -> /b/1\.0\.0 -> /a/1\.0\.0"
    ):
        _repository(tmp_path).get("/a/1.0.0")


def test_a_schema_without_title_is_named_by_its_uri(tmp_path: Path) -> None:
    put(tmp_path, "a/b/1.0.0.yaml", {"type": "object"})
    assert _repository(tmp_path).get("/a/b/1.0.0").title == "a/b"


def test_a_file_with_another_id_is_found_by_its_path(tmp_path: Path) -> None:
    put(tmp_path, "a/1.0.0.yaml", schema("/a/1.0.1"))
    assert str(_repository(tmp_path).get("/a/1.0.0").uri) == "/a/1.0.0"


@pytest.mark.parametrize(
    "uri", ["/../secret/1.0.0", "file:///a/1.0.0", "http://x/a/1.0.0", "a/1.0.0", "/a/latest", ""]
)
def test_only_schema_uris_are_looked_up(tmp_path: Path, uri: str) -> None:
    put(tmp_path, "secret/1.0.0.yaml", schema("/secret/1.0.0"))
    put(tmp_path, "base/a/latest", schema("/a/1.0.0"))
    with pytest.raises(BadSchemaUri):
        _repository(tmp_path / "base").get(uri)


def test_symlinks_cannot_leave_a_base(tmp_path: Path) -> None:
    put(tmp_path, "secret/1.0.0.yaml", schema("/a/1.0.0"))
    base = tmp_path / "base"
    (base / "a").mkdir(parents=True)
    (base / "a" / "1.0.0.yaml").symlink_to(tmp_path / "secret" / "1.0.0.yaml")
    with pytest.raises(SchemaNotFound):
        _repository(base).get("/a/1.0.0")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a" / "1.0.0.yaml").mkdir(parents=True)
    os.mkfifo(tmp_path / "a" / "1.0.0.json")
    with pytest.raises(SchemaNotFound):
        _repository(tmp_path).get("/a/1.0.0")
