"""Validates documents under a schema, compiled once for each schema URI.

Regular expressions run in linear time; one that cannot (look-around, back-references) is refused
when the schema is compiled. Nothing is fetched over the network. Formats are validated as in AJV 6,
but a `date-time` must conform to RFC 3339, with an existing day (formats.py).

Problems have the words and paths of EventGate's answers (AJV 6): `'.meta.dt' should be string`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jsonschema_rs

from eventstreams.errors import SchemaError
from eventstreams.model.problem import Problem, below
from eventstreams.schemas.ajv import Errors
from eventstreams.schemas.cost import is_cheap, without_branches
from eventstreams.schemas.format_checks import FormatChecks
from eventstreams.schemas.formats import FORMATS, LENIENT_FORMATS, Format
from eventstreams.schemas.repository import SchemaRepository
from eventstreams.schemas.subschemas import subschemas
from eventstreams.schemas.text import in_order

PROBLEMS_MAX = 100
"""Maximum problems reported for one document."""

_DRAFTS: dict[str, type[jsonschema_rs.Validator]] = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "draft/2019-09": jsonschema_rs.Draft201909Validator,
    "draft/2020-12": jsonschema_rs.Draft202012Validator,
}
_META_SCHEMA = re.compile(r"https?://json-schema\.org/(.+)/schema#?")


class ValidationProblem(NamedTuple):
    """The contents of an AJV error object."""

    keyword: str
    data_path: str
    """The place in the document, in JavaScript notation: `.meta.dt`, `.tags[0]`."""
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
    "type", "", "#", "should not contain half of a surrogate pair in a string", {}
)
"""Python can hold such text, but neither JSON in UTF-8 nor any log can."""
IN_A_BRANCH = ValidationProblem(
    "anyOf", "", "#", "should match an anyOf or oneOf of its schema; it is too large to say why", {}
)


def errors_text(problems: Iterable[ValidationProblem]) -> str:
    """Return one line for logs and error events: `'.a' should be string, '.b' should be >= 0`."""
    return ", ".join(f"'{problem.data_path}' {problem.message}" for problem in problems)


class Validator:
    """Validates documents under one schema, which must not contain references."""

    def __init__(
        self, schema: dict[str, Any], place: str, *, lenient_formats: bool = False
    ) -> None:
        """Compile a schema.

        `lenient_formats` accepts times as AJV's fast formats do, even on days that do not exist.
        Raises SchemaError listing every problem of the schema itself.
        """
        problems = list(schema_problems(schema, place))
        if problems:
            raise SchemaError(problems)
        self._checks = FormatChecks(LENIENT_FORMATS if lenient_formats else FORMATS)
        self._formats = self._checks.functions
        self._draft, schema = _as_read_by_ajv(schema)
        self._schema = schema
        self._compiled = _compile(schema, self._formats, self._draft)
        self._parts: dict[int, jsonschema_rs.Validator] = {}
        simpler = without_branches(schema)
        self._simpler = (
            self._compiled if simpler == schema else _compile(simpler, self._formats, self._draft)
        )

    def validate(self, document: Any) -> list[ValidationProblem]:
        """Return the problems of the document, at most PROBLEMS_MAX; an empty list if it is valid.

        If the document has so many values or problems that listing them would take long, only the
        first problem is returned.
        """
        try:
            if self._compiled.is_valid(document):
                return []
            in_full = is_cheap(document, lambda: self._compiled.evaluate(document).errors())
            find = self._compiled.iter_errors if in_full else self._first_error
            found: Iterable[jsonschema_rs.ValidationError] = find(document)
            problems = self._problems(found, document, in_full=in_full)
            return list(islice(problems, PROBLEMS_MAX)) or [IN_A_BRANCH]
        except UnicodeEncodeError:
            return [HALF_A_PAIR]

    def validating(self, document: Any) -> Generator[None, None, list[ValidationProblem]]:
        """Do as `validate` does, for a large document. Each `yield` is a point at which other work
        can proceed."""

        def find_texts() -> None:
            with contextlib.suppress(UnicodeEncodeError):  # `validate` meets it again
                self._compiled.is_valid(document)

        results = yield from self._checks.in_steps(find_texts)
        if results:
            yield
        with self._checks.known(results):
            return self.validate(document)

    def test_of(self, part: Any) -> Callable[[Any], bool]:
        """Return a function that tests whether a value is valid under a part of the schema.

        A value with an unpaired surrogate is never valid.
        """
        compiled = _compile(part, self._formats, self._draft)

        def test(value: Any) -> bool:
            try:
                return compiled.is_valid(value)
            except UnicodeEncodeError:
                return False

        return test

    def accepts(self, document: Any) -> bool:
        """Return whether `validate` would return no problems."""
        try:
            return self._compiled.is_valid(document)
        except UnicodeEncodeError:
            return False

    def _first_error(self, document: Any) -> list[jsonschema_rs.ValidationError]:
        """Return the first error; none if only keywords with branches are violated."""
        try:
            self._simpler.validate(document)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []

    def _problems(
        self, errors: Iterable[jsonschema_rs.ValidationError], document: Any, *, in_full: bool
    ) -> Iterator[ValidationProblem]:
        evaluate = self._evaluate if in_full else _no_errors
        for error in Errors(self._schema, document, evaluate).of(errors):
            keyword, message, params = error.wording
            yield ValidationProblem(keyword, error.data_path, error.schema_path, message, params)

    def _evaluate(self, part: Any, value: Any) -> Iterable[jsonschema_rs.ValidationError]:
        """Return the errors of a value under a part of the schema."""
        if id(part) not in self._parts:
            self._parts[id(part)] = _compile(part, self._formats, self._draft)
        return self._parts[id(part)].iter_errors(value)


def _no_errors(part: Any, value: Any) -> Iterable[jsonschema_rs.ValidationError]:  # noqa: ARG001
    return ()


class Validators:
    """The validators of a repository's schemas, each compiled on first use."""

    def __init__(self, repository: SchemaRepository) -> None:
        self._repository = repository
        self._validators: dict[str, Validator] = {}

    def get(self, uri: str) -> Validator:
        """Return a validator. Raises the errors of SchemaRepository.get, and SchemaError if the
        schema cannot be compiled.
        """
        if uri not in self._validators:
            schema = self._repository.get(uri)
            self._validators[uri] = Validator(schema.document, str(schema.uri))
        return self._validators[uri]


def schema_problems(schema: dict[str, Any], place: str) -> Iterator[Problem]:
    """Yield what makes the schema invalid in its draft, or prevents compiling it."""
    problem = partial(Problem, place, check="schema-is-valid")
    draft = _draft(schema)
    if draft is None:
        yield problem("/$schema", f"{schema['$schema']!r} is not a supported draft of JSON Schema")
        return
    meta = _DRAFTS[draft](
        {"$ref": f"{_scheme(draft)}://json-schema.org/{draft}/schema"}, offline=True
    )
    valid = True
    for error in islice(meta.iter_errors(schema), PROBLEMS_MAX):
        valid = False
        yield problem(below("", *error.instance_path), error.verbose_message.splitlines()[0])
    for pointer, node in subschemas(schema) if valid else ():
        enum: Any = node.get("enum", [None])
        if len({json.dumps(in_order(value)) for value in enum}) < max(1, len(enum)):
            valid = False
            what = "contains a value twice" if enum else "contains no value"
            yield problem(below(pointer, "enum"), f"{what}, which AJV does not allow")
    if not valid:
        return
    try:
        draft, read = _as_read_by_ajv(schema)
        _compile(read, FORMATS, draft)
    except ValueError as error:
        path = getattr(error, "instance_path", ())
        yield problem(below("", *path), f"cannot be compiled: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _compile(schema: Any, formats: Mapping[str, Format], draft: str) -> jsonschema_rs.Validator:
    return _DRAFTS[draft](
        schema,
        validate_formats=True,
        ignore_unknown_formats=False,
        formats=dict(formats),
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def _as_read_by_ajv(schema: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a draft and the schema converted to it.

    AJV gives each keyword one meaning in drafts 4 to 7, except for the two that were booleans in
    draft 4; in that draft, too, 1.0 is an integer.
    """
    draft = _draft(schema)
    assert draft is not None
    if draft not in ("draft-04", "draft-06"):
        return draft, schema
    read: dict[str, Any] = copy.deepcopy(schema)
    read["$schema"] = "http://json-schema.org/draft-07/schema#"
    for _, node in subschemas(read):
        for bound, keyword in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if node.get(keyword) is True and bound in node:
                node[keyword] = node.pop(bound)
            elif isinstance(node.get(keyword), bool):
                del node[keyword]
    return "draft-07", read


def _draft(schema: dict[str, Any]) -> str | None:
    """Return the schema's draft: draft-07 if it names none, None if it names an unknown one."""
    given = schema.get("$schema", "http://json-schema.org/draft-07/schema#")
    match = _META_SCHEMA.fullmatch(given) if isinstance(given, str) else None
    return match[1] if match and match[1] in _DRAFTS else None


def _scheme(draft: str) -> str:
    return "http" if draft.startswith("draft-") else "https"
