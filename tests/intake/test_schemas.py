"""Schemas are served at /v1/schemas, and in the OpenAPI document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.intake import SHIPPED, TEST, event, place
from tests.support.schema_folders import put

pytestmark = pytest.mark.anyio
ONE = "/v1/schemas/test/event/1.0.0"


async def test_a_schema_is_served_as_json_or_yaml(tmp_path: Path) -> None:
    kept = json.loads((SHIPPED / "test/event/1.0.0.json").read_text())
    async with place(tmp_path) as here:
        for path, accept, kind in (
            (ONE, "*/*", "json"),
            (ONE + ".json", "application/yaml", "json"),
            (ONE + ".yaml", "*/*", "yaml"),
            (ONE, "application/yaml", "yaml"),
            (ONE, "text/yaml, */*", "yaml"),
        ):
            answer = await here.http.get(path, headers={"accept": accept})
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(f"application/{kind}")
            assert answer.headers["access-control-allow-origin"] == "*"
            read = json.loads if kind == "json" else yaml.safe_load
            assert read(answer.text) == kept


async def test_versions_are_cacheable_and_latest_is_not(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        fixed = await here.http.get(ONE)
        newest = await here.http.get("/v1/schemas/test/event/latest")
        assert fixed.json() == newest.json()
        assert "immutable" in fixed.headers["cache-control"]
        assert newest.headers["cache-control"] == "public, max-age=10"
        again = await here.http.get(ONE, headers={"if-none-match": fixed.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await here.http.get(ONE + ".yaml")
        assert other.headers["etag"] != fixed.headers["etag"]


async def test_schemas_of_all_folders_are_listed(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        listed = (await here.http.get("/v1/schemas")).json()
        assert (await here.http.get("/v1/schemas/")).json() == listed
        assert "/test/event/1.0.0" in listed
        assert "/test/numbers/1.0.0" in listed, "from the second folder"
        for uri in listed:
            assert (await here.http.get(f"/v1/schemas{uri}")).status_code == 200, uri


@pytest.mark.parametrize(
    "path",
    [
        "/test/event/9.9.9",
        "/nothing/1.0.0",
        "/nothing/latest",
        "/test/event",
        "/test/event/1",
        "/test/event/current",
        "/../../streams",
        "/..%2f..%2fstreams.yaml",
        "/%2e%2e/%2e%2e/streams.yaml",
        "/test/event/..%2fevent/1.0.0",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/test/event/1.0.0%00",
        "/" + "a" * 3000,
    ],
)
async def test_other_paths_are_404_and_read_no_file(tmp_path: Path, path: str) -> None:
    async with place(tmp_path) as here:
        answer = await here.served.get(f"/v1/schemas{path}")
        assert answer.status == 404, answer.body
        assert b"streams:" not in answer.body
        assert b"Traceback" not in answer.body


async def test_an_invalid_schema_is_reported_as_such(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        (tmp_path / "schemas" / "broken").mkdir()
        (tmp_path / "schemas" / "broken" / "1.0.0.yaml").write_text("{a: [")
        answer = await here.http.get("/v1/schemas/broken/1.0.0")
        assert answer.status_code == 422
        assert answer.json()["type"] == "broken_schema"
        assert answer.json()["detail"].startswith("/broken/1.0.0:2:1: not YAML: ")
        assert str(tmp_path) not in answer.text


async def test_odd_schemas_cause_no_internal_error(
    tmp_path: Path,
) -> None:
    async with place(tmp_path) as here:
        other = {"$id": "/other/1.0.0", "title": "test/event", "type": "object"}
        put(tmp_path, "schemas/other/place/1.0.0.yaml", other)
        loop = {"title": "loop", "properties": {"a": {"$ref": "#"}}}
        put(tmp_path, "schemas/loop/1.0.0.yaml", loop)
        answer = await here.http.get("/v1/schemas/other/place/1.0.0")
        assert (answer.status_code, answer.json()) == (200, other)
        assert (await here.post({**event(), "$schema": "/other/place/1.0.0"})).status_code == 201
        answer = await here.http.get("/v1/schemas/loop/1.0.0")
        assert answer.status_code == 422
        assert "refers to itself" in answer.json()["detail"]
        answer = await here.post({**event(), "$schema": "/loop/1.0.0"})
        assert answer.status_code == 400
        assert "refers to itself" in answer.json()["invalid"][0]["context"]["errorsText"]


async def test_the_spec_shows_the_schema_and_an_example_of_each_stream(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        spec = (await here.http.get("/?spec")).json()
        OpenAPIV31SpecValidator(spec).validate()
        schemas = spec["components"]["schemas"]
        shown = [schema for schema in schemas.values() if schema.get("title") == "test/event"]
        assert len(shown) == 1, "once for all its streams"
        text = json.dumps(spec["paths"][f"/v2/stream/{TEST}"]["get"])
        name = next(name for name, schema in schemas.items() if schema is shown[0])
        assert f"#/components/schemas/{name}" in text
        assert '"test": "hello"' in text, "its example"
        assert "post" in spec["paths"]["/v1/events"]
