"""Is a document valid under a schema? Compiled once for each schema URI.

Regular expressions run in linear time; one that can't (look-around, back-references) is refused
when the schema is compiled. Nothing is ever fetched. Formats have the verdicts of AJV 6, but a
`date-time` is RFC 3339, with a day that exists (formats.py).

Problems have the words and paths of EventGate's answers (AJV 6): `'.meta.dt' should be string`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

import jsonschema_rs

from eventstreams.errors import SchemaError
from eventstreams.schemas.cost import is_cheap, without_branches
from eventstreams.schemas.formats import FORMATS, LENIENT_FORMATS, Format
from eventstreams.schemas.problem import Problem, below
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.wording import data_path, wordings

PROBLEMS_MAX = 100
"""Of one document; a document with a million wrong fields is wrong enough."""

_DRAFTS: dict[str, type[jsonschema_rs.Validator]] = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "draft/2019-09": jsonschema_rs.Draft201909Validator,
    "draft/2020-12": jsonschema_rs.Draft202012Validator,
}
_META_SCHEMA = re.compile(r"https?://json-schema\.org/(.+)/schema#?")


class ValidationProblem(NamedTuple):
    """What an AJV error object holds."""

    keyword: str
    data_path: str
    """Where in the document, as JavaScript would write it: `.meta.dt`, `.tags[0]`."""
    schema_path: str
    message: str
    params: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "keyword": self.keyword,
            "dataPath": self.data_path,
            "schemaPath": self.schema_path,
            "params": self.params,
            "message": self.message,
        }


HALF_A_PAIR = ValidationProblem(
    "type", "", "#", "should hold no half of a surrogate pair in any text", {}
)
"""Python can hold such text, but neither JSON in UTF-8 nor any log can."""
IN_A_BRANCH = ValidationProblem(
    "anyOf", "", "#", "should match an anyOf or oneOf of its schema; it is too large to say why", {}
)


def errors_text(problems: Iterable[ValidationProblem]) -> str:
    """`'.a' should be string, '.b' should be >= 0`: one line for logs and error events."""
    return ", ".join(f"'{problem.data_path}' {problem.message}" for problem in problems)


class Validator:
    """Of one schema, which must hold no references."""

    def __init__(
        self, schema: dict[str, Any], place: str, *, lenient_formats: bool = False
    ) -> None:
        """`lenient_formats`: times as AJV's fast formats take them, days that do not exist too.

        Raises SchemaError with everything that is wrong with the schema itself.
        """
        problems = list(schema_problems(schema, place))
        if problems:
            raise SchemaError(problems)
        formats = LENIENT_FORMATS if lenient_formats else FORMATS
        self._schema = schema
        self._compiled = _compile(schema, formats)
        simpler = without_branches(schema)
        self._simpler = self._compiled if simpler == schema else _compile(simpler, formats)

    def validate(self, document: Any) -> list[ValidationProblem]:
        """Return what is wrong with the document, at most PROBLEMS_MAX problems; none if it is
        valid. Of a document with so many values or problems that listing them would take long,
        only the first problem is found."""
        try:
            if self._compiled.is_valid(document):
                return []
            found: Iterable[jsonschema_rs.ValidationError]
            if is_cheap(document, lambda: self._compiled.evaluate(document).errors()):
                found = self._compiled.iter_errors(document)
            else:
                found = self._first_error(document)
            return list(islice(self._problems(found, document), PROBLEMS_MAX)) or [IN_A_BRANCH]
        except UnicodeEncodeError:
            return [HALF_A_PAIR]

    def _first_error(self, document: Any) -> list[jsonschema_rs.ValidationError]:
        """None where only a keyword with branches says that the document is invalid."""
        try:
            self._simpler.validate(document)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []

    def _problems(
        self, errors: Iterable[jsonschema_rs.ValidationError], document: Any
    ) -> Iterator[ValidationProblem]:
        for error in errors:
            details: dict[str, Any] = error.kind.as_dict()
            kind = error.kind.name
            if kind == "falseSchema" and error.schema_path[-1:] == ["additionalProperties"]:
                # that of an object without properties; told for the first one, without its name
                kind = "additionalProperties"
                details = {"unexpected": list(_value_at(document, error.instance_path))}
            for branch in details.get("context", ()):  # of anyOf, oneOf
                yield from self._problems(branch, document)
            if isinstance(details.get("error"), jsonschema_rs.ValidationError):  # of a name
                yield from self._problems([details["error"]], document)
            pointer = below("#", *error.schema_path)
            told = _value_at(self._schema, error.schema_path)
            for keyword, message, params in wordings(kind, details, told):
                where = data_path(error.instance_path)
                yield ValidationProblem(keyword, where, pointer, message, params)


class Validators:
    """The validators of a repository's schemas, each compiled on first use."""

    def __init__(self, repository: SchemaRepository) -> None:
        self._repository = repository
        self._validators: dict[str, Validator] = {}

    def get(self, uri: str) -> Validator:
        """Raises what SchemaRepository.get raises, and SchemaError for what can't be compiled."""
        if uri not in self._validators:
            schema = self._repository.get(uri)
            self._validators[uri] = Validator(schema.document, str(schema.uri))
        return self._validators[uri]


def schema_problems(schema: dict[str, Any], place: str) -> Iterator[Problem]:
    """Is it a valid schema of its draft, all of which can be compiled?"""
    problem = partial(Problem, place, check="schema-is-valid")
    draft = _draft(schema)
    if draft is None:
        yield problem("/$schema", f"{schema['$schema']!r} is no draft of JSON Schema known here")
        return
    meta = _DRAFTS[draft](
        {"$ref": f"{_scheme(draft)}://json-schema.org/{draft}/schema"}, offline=True
    )
    valid = True
    for error in islice(meta.iter_errors(schema), PROBLEMS_MAX):
        valid = False
        yield problem(below("", *error.instance_path), error.verbose_message.splitlines()[0])
    if not valid:
        return
    try:
        _compile(schema, FORMATS)
    except ValueError as error:
        path = getattr(error, "instance_path", ())
        yield problem(below("", *path), f"can't be compiled: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _compile(schema: dict[str, Any], formats: Mapping[str, Format]) -> jsonschema_rs.Validator:
    draft = _draft(schema)
    assert draft is not None
    return _DRAFTS[draft](
        schema,
        validate_formats=True,
        ignore_unknown_formats=False,
        formats=dict(formats),
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def _draft(schema: dict[str, Any]) -> str | None:
    """draft-07 where the schema does not say; None where it says something unknown."""
    given = schema.get("$schema", "http://json-schema.org/draft-07/schema#")
    match = _META_SCHEMA.fullmatch(given) if isinstance(given, str) else None
    return match[1] if match and match[1] in _DRAFTS else None


def _scheme(draft: str) -> str:
    return "http" if draft.startswith("draft-") else "https"


def _value_at(schema: Any, path: Sequence[str | int]) -> Any:
    """None where the path does not lead through this schema alone."""
    for token in path:
        if isinstance(schema, dict):
            schema = cast("dict[str, Any]", schema).get(str(token))
        elif isinstance(schema, list) and isinstance(token, int):
            schema = cast("list[Any]", schema)[token]
        else:
            return None
    return schema
