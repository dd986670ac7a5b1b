"""Schemas are found by URI and nothing else can be read through one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from eventstreams.errors import BadSchemaUri, SchemaError, SchemaNotFound
from eventstreams.schemas.repository import SchemaRepository
from tests.schemas.folders import materialize, put, put_current, schema


def _repository(*bases: Path) -> SchemaRepository:
    return SchemaRepository(bases)


def test_a_schema_is_found_with_title_and_version(tmp_path: Path) -> None:
    put_current(tmp_path, schema("/a/b/1.2.3", description="hello"))
    materialize(tmp_path)
    found = _repository(tmp_path).get("/a/b/1.2.3")
    assert (found.title, found.version, str(found.uri)) == ("a/b", (1, 2, 3), "/a/b/1.2.3")
    assert found.document["description"] == "hello"


@pytest.mark.parametrize("name", ["1.0.0.yaml", "1.0.0.json", "1.0.0"])
def test_any_content_type_will_do(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"a/{name}", schema("/a/1.0.0"))
    assert _repository(tmp_path).get("/a/1.0.0").title == "a"


def test_the_first_base_that_has_it_gives_it(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    put(first, "a/1.0.0.yaml", schema("/a/1.0.0", description="first"))
    put(second, "a/1.0.0.yaml", schema("/a/1.0.0", description="second"))
    put(second, "b/1.0.0.yaml", schema("/b/1.0.0"))
    repository = _repository(first, tmp_path / "not-there", second)
    assert repository.get("/a/1.0.0").document["description"] == "first"
    assert repository.get("/b/1.0.0").title == "b"


def test_what_was_found_is_kept_and_what_was_not_is_looked_for_again(tmp_path: Path) -> None:
    repository = _repository(tmp_path)
    with pytest.raises(SchemaNotFound, match=r"/a/1\.0\.0: there is no such schema"):
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


def test_references_that_lead_round_are_an_error(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        put(
            tmp_path,
            f"{name}/1.0.0.yaml",
            schema(f"/{name}/1.0.0", allOf=[{"$ref": f"/{other}/1.0.0"}]),
        )
    with pytest.raises(SchemaError, match=r"lead round: /a/1\.0\.0 -> /b/1\.0\.0 -> /a/1\.0\.0"):
        _repository(tmp_path).get("/a/1.0.0")


def test_a_schema_without_title_is_called_as_its_uri_says(tmp_path: Path) -> None:
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


def test_symlinks_do_not_lead_out_of_a_base(tmp_path: Path) -> None:
    put(tmp_path, "secret/1.0.0.yaml", schema("/a/1.0.0"))
    base = tmp_path / "base"
    (base / "a").mkdir(parents=True)
    (base / "a" / "1.0.0.yaml").symlink_to(tmp_path / "secret" / "1.0.0.yaml")
    with pytest.raises(SchemaNotFound):
        _repository(base).get("/a/1.0.0")


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a" / "1.0.0.yaml").mkdir(parents=True)
    os.mkfifo(tmp_path / "a" / "1.0.0.json")
    with pytest.raises(SchemaNotFound):
        _repository(tmp_path).get("/a/1.0.0")
