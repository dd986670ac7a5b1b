"""The OpenAPI document follows changes of schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.store import SchemaStore
from eventstreams.web.openapi import OpenApi
from tests.support.gateway import stream_of

pytestmark = pytest.mark.anyio


def release(folder: Path, version: str, *fields: str) -> None:
    document: dict[str, Any] = {
        "title": "thing",
        "$id": f"/thing/{version}",
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {name: {"type": "string"} for name in fields},
    }
    (folder / "thing").mkdir(exist_ok=True)
    (folder / "thing" / f"{version}.yaml").write_text(yaml.safe_dump(document))


async def test_a_new_version_of_a_schema_is_described_without_a_restart(tmp_path: Path) -> None:
    release(tmp_path, "1.0.0", "a")
    catalogue = Catalogue({"s": stream_of("s", ["t"])._replace(schema_title="thing")})
    store = SchemaStore(SchemaRepository([tmp_path]), retry_s=0.0, latest_s=-1.0)
    openapi = OpenApi(CatalogueWatcher(catalogue, path=None, metrics=Metrics()), store)

    async def described() -> set[str]:
        document = json.loads(await openapi.read())
        return set(document["components"]["schemas"]["thing"]["properties"])

    assert await described() == {"a"}
    assert await openapi.read() is await openapi.read(), "nothing has changed"
    release(tmp_path, "1.1.0", "a", "b")
    assert await described() == {"a", "b"}
    await store.aclose()
