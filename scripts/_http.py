"""Print docs/http.md: the operations of eventstreams/web/openapi.yaml as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_SOURCE = Path(__file__).parents[1] / "eventstreams" / "web" / "openapi.yaml"
_INTRODUCTION = """\
# HTTP interface

<!-- Written by scripts/docs from eventstreams/web/openapi.yaml. Do not edit it here. -->

Every operation with its parameters and responses. A running gateway serves the same as an OpenAPI
3.1 document at `/?spec`, with the names of its streams and the schema of each, and shows it at
`/?doc`.
[Filters, fields, samples and ends](filters.md) explains the parameters of streams with examples,
[Posting events](intake.md) the answers to posts, and [Ids](cursors.md) the ids.

What the tables do not say:

"""
_OTHERS = (
    ("`GET /`, `GET /v2/ui/`", "a page that shows live events of any stream, and replays them"),
    ("`GET /?spec`, `GET /?doc`", "the OpenAPI document; a page that shows it"),
    ("`GET /healthz`", "whether the process responds: [Health](operations.md#health)"),
    ("`GET /readyz`", "whether it is ready for clients (200) or not (503)"),
    (
        "`GET /v2/admin/clients`, `DELETE /v2/admin/clients/{id}`",
        "the open streams; closes one. Both need the operator's key: "
        "[Who is connected](operations.md#who-is-connected)",
    ),
    (
        "`GET /v2/admin/`, `GET /v2/admin/live`, `POST /v2/admin/ticket`",
        "the [operators' page](operations.md#the-operators-page), its figures as a stream, and a "
        "ticket for them",
    ),
    (
        "`GET /_info`, `/_info/name`, `/_info/version`, `/_info/home`",
        "name, version and home page of the service",
    ),
    ("`GET /robots.txt`", "keeps crawlers out"),
    ("`HEAD`, `OPTIONS` of a stream", "the headers only; methods and CORS"),
)
"""What is not part of the OpenAPI document."""


def main() -> None:
    document = yaml.safe_load(_SOURCE.read_text())
    notes = document["info"]["description"].partition("- ")
    print(_INTRODUCTION + notes[1] + notes[2])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            print("\n".join(_operation(f"{method.upper()} {path}", operation)))
    print("## Pages, health and operation\n\nThese are not part of the OpenAPI document.\n")
    print("\n".join(_table(("Request", "Answer"), _OTHERS)).rstrip())


def _operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n\n{_cell(operation['summary'])}.\n"
    if operation.get("security"):
        yield "It needs an access token in the `Authorization` header.\n"
    rows = [_parameter(each) for each in operation.get("parameters", ())]
    if rows:
        yield from _table(("Parameter", "In", "Value", "Meaning"), rows)
    body = operation.get("requestBody")
    if body is not None:
        yield f"Body: {_types(body['content'])}.\n"
    answers = [
        (f"`{status}`", _types(answer.get("content", {})), _cell(answer["description"]))
        for status, answer in operation["responses"].items()
    ]
    yield from _table(("Status", "Content type", "When"), answers)


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    meaning = _cell(parameter["description"])
    if parameter.get("required"):
        meaning += ". Required"
    return (
        f"`{parameter['name']}`",
        parameter["in"],
        _value(parameter["schema"]),
        meaning,
    )


def _value(schema: Mapping[str, Any]) -> str:
    text = ", ".join(f"`{value}`" for value in schema.get("enum", ())) or schema["type"]
    if schema["type"] == "array":
        text = f"list of {schema['items']['type']}s"
    if "minimum" in schema:
        text += f", at least {schema['minimum']}"
    if "maxLength" in schema:
        text += f" of at most {schema['maxLength']:,} characters"
    if "default" in schema:
        text += f"; default `{schema['default']}`"
    return text


def _types(content: Mapping[str, Any]) -> str:
    return ", ".join(f"`{kind}`" for kind in content)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


if __name__ == "__main__":
    main()
