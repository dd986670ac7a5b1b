"""Documents that do not change are built once, however often they are requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventstreams.web import openapi
from eventstreams.web import schemas as schemas_module
from tests.support.intake import place
from tests.support.schema_folders import put, schema

pytestmark = pytest.mark.anyio


async def test_the_openapi_document_is_built_once_per_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    document = openapi.document

    def counting(*args: Any) -> bytes:
        made.append(args)
        return document(*args)

    monkeypatch.setattr(openapi, "document", counting)
    async with place(tmp_path) as here:
        texts = {(await here.http.get("/?spec")).content for _ in range(5)}
        assert len(texts) == len(made) == 1


async def test_a_schema_is_written_once_in_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    to_text = schemas_module.to_text

    def counting(document: Any, kind: str) -> str:
        written.append(kind)
        return to_text(document, kind)

    monkeypatch.setattr(schemas_module, "to_text", counting)
    async with place(tmp_path) as here:
        put(tmp_path, "schemas/a/b/1.0.0.yaml", schema("/a/b/1.0.0"))
        for _ in range(5):
            for kind in ("json", "yaml"):
                answer = await here.http.get(f"/v1/schemas/a/b/1.0.0.{kind}")
                assert answer.status_code == 200
        assert (await here.http.get("/v1/schemas/a/b/latest")).json()["title"] == "a/b"
    assert written == ["json", "json", "yaml"]
