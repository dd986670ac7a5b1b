"""References are written out, wherever they lead; those that lead nowhere are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SchemaError
from eventstreams.schemas.dereference import dereference
from eventstreams.schemas.problem import Problem, below
from eventstreams.schemas.uri import SchemaUri

FRAGMENT = {"$id": "/fragment/1.0.0", "properties": {"dt": {"type": "string", "x/y": [1, 2]}}}


def _lookup(uri: SchemaUri) -> dict[str, Any]:
    if str(uri) != "/fragment/1.0.0":
        raise SchemaError([Problem(str(uri), "", "there is no such schema")])
    return FRAGMENT


def _written_out(**document: Any) -> dict[str, Any]:
    return dereference(document, "f", _lookup)


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ("/fragment/1.0.0", FRAGMENT),
        ("/fragment/1.0.0#", FRAGMENT),
        ("/fragment/1.0.0#/properties/dt", FRAGMENT["properties"]["dt"]),  # type: ignore[index]
        ("/fragment/1.0.0#/properties/dt/x~1y/1", 2),
        ("/fragment/1.0.0#/properties/dt/x~1%79/0", 1),
        ("#/$id", "/mine/1.0.0"),
        ("./#/$id", "/mine/1.0.0"),
        ("#/definitions/a", {"type": "null"}),
        ("#/definitions/b", {"type": "null"}),
    ],
)
def test_a_reference_becomes_what_it_names(ref: str, value: Any) -> None:
    definitions = {"a": {"type": "null"}, "b": {"$ref": "#/definitions/a"}}
    written = _written_out(**{"$id": "/mine/1.0.0"}, definitions=definitions, x={"$ref": ref})
    assert written["x"] == value


def test_keys_beside_a_reference_win() -> None:
    ref = "/fragment/1.0.0#/properties/dt"
    written = _written_out(x={"$ref": ref, "type": "integer", "description": {"$ref": "#/y"}}, y=1)
    assert written["x"] == {"type": "integer", "description": 1, "x/y": [1, 2]}


def test_a_property_may_be_called_ref() -> None:
    document = {"properties": {"$ref": {"type": "string"}}}
    assert _written_out(**document) == document


def test_copies_share_nothing() -> None:
    ref = {"$ref": "/fragment/1.0.0"}
    written = _written_out(a=ref, b=ref)
    written["a"]["properties"]["dt"]["type"] = "changed"
    assert written["b"] == FRAGMENT
    assert FRAGMENT["properties"]["dt"]["type"] == "string"  # type: ignore[index]


@given(st.recursive(st.integers(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_what_holds_no_reference_stays_the_same(value: Any) -> None:
    assert dereference({"v": value}, "f", _lookup) == {"v": value}


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers())
def test_every_place_can_be_named(keys: list[str], value: int) -> None:
    document: Any = value
    for key in reversed(keys):
        document = {key: document}
    ref = below("#", "v", *keys).replace("%", "%25")
    assert dereference({"v": document, "r": {"$ref": ref}}, "f", _lookup)["r"] == value


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("http://example.org/a/1.0.0", "is refused: the schema URI is absolute"),
        ("file:///etc/passwd", "is refused: the schema URI is absolute"),
        ("../fragment/1.0.0", "is refused: the schema URI does not begin with /"),
        ("/../fragment/1.0.0", "is refused: the schema URI leads out of the repository"),
        ("/fragment/latest", "is refused: the schema URI does not end in a full version"),
        ("/fragment/1.0.0#dt", "leads nowhere: 'dt' is not a JSON pointer"),
        ("/fragment/1.0.0#/nope", "leads nowhere: there is no 'nope'"),
        ("/fragment/1.0.0#/properties/dt/x~1y/2", "leads nowhere: there is no item 2"),
        ("/none/1.0.0", "can't be had; /none/1.0.0: there is no such schema"),
        ("#", "leads round to itself"),
        ("#/a", "leads round to itself"),
        ("#/a/x", "leads round to itself"),
        ("#/b", "leads round to itself"),
    ],
)
def test_what_leads_nowhere_is_told_with_its_place(ref: str, said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        _written_out(a={"x": {"$ref": ref}}, b={"$ref": "#/a/x"})
    assert f"f#/a/x/$ref: {ref} {said}" in str(raised.value)


def test_every_bad_reference_is_told_once() -> None:
    with pytest.raises(SchemaError) as raised:
        _written_out(a={"$ref": "#/x"}, b=[{"$ref": "#/y"}, {"$ref": "#/a"}])
    assert [p.pointer for p in raised.value.problems] == ["/a/$ref", "/b/0/$ref"]


def test_references_that_double_each_time_do_not_fill_memory() -> None:
    chain = {f"d{n}": [{"$ref": f"#/d{n + 1}"}] * 2 for n in range(40)}
    with pytest.raises(SchemaError, match="more than 200000 values"):
        _written_out(**chain, d40=[])


def test_references_can_not_nest_without_end() -> None:
    chain = {f"d{n}": {"x": {"$ref": f"#/d{n + 1}"}} for n in range(500)}
    with pytest.raises(SchemaError, match="nested deeper than 100"):
        _written_out(**chain, d500={})
