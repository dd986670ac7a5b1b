"""Keys have the same bytes as EventGate's, so that records keep their partitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventstreams.intake.document import EventProblem
from eventstreams.intake.message_key import MessageKey
from tests.support.intake import SCHEMAS, STREAMS, place


def _key(fields: dict[str, str], document: dict[str, Any]) -> str:
    return MessageKey(fields).of(document).decode()


@pytest.mark.parametrize(
    ("fields", "document", "key"),
    [
        ({"wiki": "database"}, {"database": "enwiki"}, '{"wiki":"enwiki"}'),
        ({"w": "db", "p": "page.id"}, {"db": "é", "page": {"id": 7}}, '{"w":"é","p":7}'),
        ({"wiki": "wiki"}, {"wiki": None}, '{"wiki":null}'),
        ({"wiki": "wiki"}, {"wiki": ""}, '{"wiki":""}'),
        ({"wiki": "wiki"}, {"wiki": False}, '{"wiki":false}'),
        ({"wiki": "wiki"}, {"wiki": {"a": [1, None]}}, '{"wiki":{"a":[1,null]}}'),
        ({"k.wiki": "wiki"}, {"wiki": "x"}, '{"k":{"wiki":"x"}}'),
        ({"k.wiki": "wiki", "k.page": "page"}, {"wiki": 1, "page": 2}, '{"k":{"wiki":1,"page":2}}'),
        ({"a": "x", "a.b": "y"}, {"x": 1, "y": 2}, '{"a":{"b":2}}'),
        ({"a[0].b": "x"}, {"x": 1}, '{"a":[{"b":1}]}'),
        ({"a.1": "x"}, {"x": 1}, '{"a":[null,1]}'),
        ({"a.01": "x"}, {"x": 1}, '{"a":{"01":1}}'),
        ({"[0]": "x"}, {"x": 1}, '{"0":1}'),
        ({"tag": "tags[0]"}, {"tags": ["x"]}, '{"tag":"x"}'),
        ({"tag": "tags.1.n"}, {"tags": [0, {"n": None}]}, '{"tag":null}'),
        ({"v": "a.b"}, {"a.b": 1, "a": {"b": 2}}, '{"v":1}'),
        ({"a..b": "x"}, {"x": 1}, '{"a":{"":{"b":1}}}'),
        ({"a.": "x"}, {"x": 1}, '{"a":{"":1}}'),
    ],
)  # fmt: skip
def test_keys_equal_those_of_lodash_and_json(
    fields: dict[str, str], document: dict[str, Any], key: str
) -> None:
    assert _key(fields, document) == key


@pytest.mark.parametrize(
    "document",
    [{}, {"a": None}, {"a": "b"}, {"a": {}}, {"a": {"c": 1}}, {"a": []}, {"a": [{"b": 1}]}],
)
def test_a_missing_key_field_is_named(document: dict[str, Any]) -> None:
    with pytest.raises(EventProblem) as raised:
        _key({"one": "a.b", "two": "z", "three": "$schema"}, {"$schema": "s", **document})
    assert "Field(s) a.b,z of the message key were missing" in raised.value.message


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["strict", "eventgate"])
async def test_null_is_accepted_in_a_key(tmp_path: Path, mode: str) -> None:
    keyed = {"schema_title": "test/numbers", "message_key_fields": {"k.any": "any", "n": "number"}}
    assert "test/numbers/1.0.0" in SCHEMAS
    async with place(
        tmp_path, compatibility=mode, streams={**STREAMS, "test.nulls": keyed}
    ) as here:
        meta = {"stream": "test.nulls"}
        event = {"$schema": "/test/numbers/1.0.0", "meta": meta, "any": None, "number": 1.0}
        assert (await here.post(event)).status_code == 201
        [record] = await here.events("test.nulls")
        assert json.loads(record.key or b"") == {"k": {"any": None}, "n": 1}
        assert record.key == b'{"k":{"any":null},"n":1}'
