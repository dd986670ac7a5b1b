"""References are replaced by their targets; unresolvable ones are reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem, below
from eventstreams.schemas.dereference import dereference
from eventstreams.schemas.uri import SchemaUri

FRAGMENT = {"$id": "/fragment/1.0.0", "properties": {"dt": {"type": "string", "x/y": [1, 2]}}}


def _lookup(uri: SchemaUri) -> dict[str, Any]:
    if str(uri) != "/fragment/1.0.0":
        raise SchemaError([Problem(str(uri), "", "the schema does not exist")])
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
def test_a_reference_is_replaced_by_its_target(ref: str, value: Any) -> None:
    definitions = {"a": {"type": "null"}, "b": {"$ref": "#/definitions/a"}}
    written = _written_out(**{"$id": "/mine/1.0.0"}, definitions=definitions, x={"$ref": ref})
    assert written["x"] == value


def test_keys_beside_a_reference_take_precedence() -> None:
    ref = "/fragment/1.0.0#/properties/dt"
    written = _written_out(x={"$ref": ref, "type": "integer", "description": {"$ref": "#/y"}}, y=1)
    assert written["x"] == {"type": "integer", "description": 1, "x/y": [1, 2]}


def test_a_property_may_be_named_ref() -> None:
    document = {"properties": {"$ref": {"type": "string"}}}
    assert _written_out(**document) == document


def test_copies_share_nothing() -> None:
    ref = {"$ref": "/fragment/1.0.0"}
    written = _written_out(a=ref, b=ref)
    written["a"]["properties"]["dt"]["type"] = "changed"
    assert written["b"] == FRAGMENT
    assert FRAGMENT["properties"]["dt"]["type"] == "string"  # type: ignore[index]


@given(st.recursive(st.integers(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_documents_without_references_are_unchanged(value: Any) -> None:
    assert dereference({"v": value}, "f", _lookup) == {"v": value}


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers())
def test_every_place_can_be_referenced(keys: list[str], value: int) -> None:
    document: Any = value
    for key in reversed(keys):
        document = {key: document}
    ref = below("#", "v", *keys).replace("%", "%25")
    assert dereference({"v": document, "r": {"$ref": ref}}, "f", _lookup)["r"] == value


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("http://example.org/a/1.0.0", "is rejected: the schema URI is absolute"),
        ("file:///etc/passwd", "is rejected: the schema URI is absolute"),
        ("../fragment/1.0.0", "is rejected: the schema URI does not begin with /"),
        ("/../fragment/1.0.0", "is rejected: the schema URI leaves the repository"),
        ("/fragment/latest", "is rejected: the schema URI does not end in a full version"),
        ("/fragment/1.0.0#dt", "does not resolve: 'dt' is not a JSON pointer"),
        ("/fragment/1.0.0#/nope", "does not resolve: there is no 'nope'"),
        ("/fragment/1.0.0#/properties/dt/x~1y/2", "does not resolve: there is no item 2"),
        ("/none/1.0.0", "cannot be loaded; /none/1.0.0: the schema does not exist"),
        ("#", "refers to itself"),
        ("#/a", "refers to itself"),
        ("#/a/x", "refers to itself"),
        ("#/b", "refers to itself"),
    ],
)
def test_unresolvable_references_are_reported_with_their_place(ref: str, said: str) -> None:
    with pytest.raises(SchemaError) as raised:
        _written_out(a={"x": {"$ref": ref}}, b={"$ref": "#/a/x"})
    assert f"f#/a/x/$ref: {ref} {said}" in str(raised.value)


def test_every_invalid_reference_is_reported_once() -> None:
    with pytest.raises(SchemaError) as raised:
        _written_out(a={"$ref": "#/x"}, b=[{"$ref": "#/y"}, {"$ref": "#/a"}])
    assert [p.pointer for p in raised.value.problems] == ["/a/$ref", "/b/0/$ref"]


def test_exponential_references_use_bounded_memory() -> None:
    chain = {f"d{n}": [{"$ref": f"#/d{n + 1}"}] * 2 for n in range(40)}
    with pytest.raises(SchemaError, match="more than 200000 values"):
        _written_out(**chain, d40=[])


def test_nesting_of_references_is_limited() -> None:
    chain = {f"d{n}": {"x": {"$ref": f"#/d{n + 1}"}} for n in range(500)}
    with pytest.raises(SchemaError, match="nested deeper than 100"):
        _written_out(**chain, d500={})
