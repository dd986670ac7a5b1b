"""Templates render as in swagger-router; invalid ones are refused when they are loaded."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.propagation.expression import TemplateSyntaxError
from eventstreams.propagation.functions import TemplateError
from eventstreams.propagation.matching import MISSING
from eventstreams.propagation.template import BadTemplate, compile_template, compile_text

MESSAGE = {
    "title": "a/b c",
    "number": 3,
    "whole": 2.0,
    "nothing": None,
    "flag": True,
    "object": {"x": 1, "y": 2},
    "list": ["p", "q"],
    "a-b": "dashed",
    "meta": {"dt": "2019-01-01T00:00:00Z", "uri": "https://x/wiki/%C3%A9"},
}
CONTEXT: dict[str, Any] = {"message": MESSAGE, "match": {"meta": {"uri": ["whole", "one"]}}}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{message.title}}", "a/b c"),
        ("x{message.title}", "xa%2Fb%20c"),
        ("{message.title}", "a%2Fb%20c"),
        ("{+message.title}", "a/b c"),
        ("/a{/message.title}", "/a/a%2Fb%20c"),
        ("/a{/message.missing}", "/a"),
        ("{{message.number}}", 3),
        ("n={{message.number}}", "n=3"),
        ("n={{message.whole}}", "n=2"),
        ("{{message.object}}", {"x": 1, "y": 2}),
        ("o={{message.object}}", 'o={"x":1,"y":2}'),
        ("{{message.missing}}", MISSING),
        ("a{{message.missing}}b", "ab"),
        ("a{{message.nothing}}b", "ab"),
        ("{{message.nothing}}", None),
        ("{{message.flag}}", True),
        ("f={{message.flag}}", "f=true"),
        ("{{globals.message}}", MESSAGE),
        ("{{message}}", MESSAGE),
        ("{{message.list[1]}}", "q"),
        ("{{message['a-b']}}", "dashed"),
        ("{{ message.list[message.missing] }}", MISSING),
        ("{{match.meta.uri[1]}}", "one"),
        ("{{globals.match.meta.uri[0]}}", "whole"),
        ("{{default(message.missing, 'x')}}", "x"),
        ("{{default(message.number, 'x')}}", 3),
        ("{{merge({x: 9, z: message.number}, message.object)}}", {"x": 9, "y": 2, "z": 3}),
        ("{{strip(message.object, 'x')}}", {"y": 2}),
        ("{{strip(message.object, ['x', 'y'])}}", {}),
        ("{{filter(message.object, ['x'])}}", {"x": 1}),
        ("{{date(message.meta.dt)}}", "Tue, 01 Jan 2019 00:00:00 +0000"),
        ("{{date(message.meta.dt, 'iso')}}", "2019-01-01T00:00:00.000Z"),
        ("{{decode(message.meta.uri)}}", "https://x/wiki/é"),
        ('{"json": "{{message.number}}"}', '{"json": "3"}'),
        ("a { b", "a { b"),
    ],
)
def test_templates_render_as_in_swagger_router(template: str, value: Any) -> None:
    rendered = compile_template(template).render(CONTEXT)
    assert rendered == value
    assert type(rendered) is type(value)


def test_objects_and_lists_omit_undefined_values() -> None:
    template = compile_template(
        {"a": "{{message.missing}}", "b": ["{{message.missing}}", "{{message.number}}", 7, None]}
    )
    assert template.render(CONTEXT) == {"b": [3, 7, None]}


@pytest.mark.parametrize(
    "template",
    [
        "{{message.missing.field}}",
        "x{message.missing.field}",
        "{{default(message.missing.field, 1)}}",
        "{{message.nothing.field}}",
        "{{date(message.title)}}",
        "{{date(message.meta.dt, 'roman')}}",
        "{{merge(message.title, message.object)}}",
        "{{decode('%ff')}}",
    ],
)
def test_a_missing_parent_is_an_error(template: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(template).render(CONTEXT)


def test_a_time_uuid_has_the_requested_time() -> None:
    uuid = UUID(compile_template("{{date(message.meta.dt, 'timeuuid')}}").render(CONTEXT))
    assert uuid.version == 1
    assert (uuid.time - 0x01B21DD213814000) // 10_000 == 1_546_300_800_000
    assert UUID(compile_template("{{timeuuid()}}").render(CONTEXT)).version == 1


@pytest.mark.parametrize(
    ("template", "at"),
    [
        ("{{message.a", 11),
        ("{{mesage.a}}", 2),
        ("ab{{}}", 4),
        ("{{message.}}", 10),
        ("{{eval('x')}}", 2),
        ("{{date()}}", 2),
        ("{{message.a + 1}}", 12),
        ("{{message['a'}}", 13),
        ("{" * 2 + "[" * 50 + "]" * 50 + "}}", 35),
    ],
)
def test_an_invalid_template_is_refused_with_its_place(template: str, at: int) -> None:
    with pytest.raises(TemplateSyntaxError) as caught:
        compile_text(template)
    assert caught.value.offset == at


def test_an_invalid_template_in_an_object_is_refused_with_its_path() -> None:
    with pytest.raises(BadTemplate) as caught:
        compile_template({"a": [1, {"b": "{{nobody}}"}]})
    assert caught.value.path == ("a", 1, "b")


@given(st.text(st.sampled_from("{}[]()'\"\\.,:+/ abmessage0{}"), max_size=30))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        compiled = compile_text(text)
    except TemplateSyntaxError:
        return
    if "{" not in text:
        assert compiled.render(CONTEXT) == text


@given(st.text())
def test_encoding_is_reversible(text: str) -> None:
    context = {"message": {"v": text}}
    encoded = compile_template("x{message.v}").render(context)
    assert encoded.isascii()
    decoded = compile_template("{{decode(message.v)}}").render({"message": {"v": encoded[1:]}})
    assert decoded == text.encode("utf-8", "replace").decode()
