"""Lines of eventlogging-processor are parsed by their format strings."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from eventstreams.intake.document import EventProblem
from eventstreams.legacy.conversion import Converter
from eventstreams.legacy.log_format import FormatError, LogFormat, RawEvent
from eventstreams.legacy.raw import raw_log
from eventstreams.model.stream_config import StreamConfigs
from tests.legacy.capsules import CAPSULES

FORMAT = "%q %{recvFrom}s %{seqId}d %D %o %u"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:10.0) Gecko/20100101 Firefox/10.0"
SENT = {
    "wiki": "testwiki",
    "schema": "Generic",
    "revision": 13,
    "event": {"articleId": 1, "articleTitle": "Héctor Elizondo"},
    "webHost": "test.wikipedia.org",
}
END = f"srv0.example.org 132073 2013-01-19T23:16:38 - {AGENT}"

WORDS = st.from_regex(r"[!-~]{1,12}", fullmatch=True)
FIELDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,9}", fullmatch=True)
TABLESS = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
TIMES = st.datetimes().map(
    lambda moment: moment.replace(microsecond=0, year=max(moment.year, 1000)).isoformat()
)
KINDS: dict[str, st.SearchStrategy[str]] = {
    "s": WORDS,
    "d": st.integers(0, 10**18 - 1).map(str),
    "i": TABLESS,
}


def parsed(log_format: str, line: str) -> RawEvent:
    return LogFormat(log_format).parse(line, line_bytes_max=10**6)


def test_a_line_yields_the_same_capsule_and_id_as_eventlogging() -> None:
    raw = parsed(FORMAT, f"?{quote(json.dumps(SENT))}; {END}")
    assert raw.capsule == {**SENT, "recvFrom": "srv0.example.org", "seqId": 132073}
    assert raw.dt == "2013-01-19T23:16:38Z"
    assert raw.user_agent == AGENT
    assert raw.uuid == "749684341abf513186c71f74c6a09502"


def test_fields_of_the_capsule_take_precedence() -> None:
    own = {**SENT, "recvFrom": "own.example.org", "userAgent": "own agent", "seqId": 7}
    raw = parsed(FORMAT, f"?{quote(json.dumps(own))}; {END}")
    assert raw.capsule == own


def test_a_capsule_may_be_json_and_the_time_may_have_a_fraction() -> None:
    text = json.dumps(SENT, separators=(",", ":")).replace(" ", "\\u0020")
    raw = parsed("%t %j", f"2013-01-19T23:16:38.125Z {text}")
    assert raw.capsule == SENT
    assert raw.dt == "2013-01-19T23:16:38.125Z"
    assert raw.uuid is None


def test_a_line_without_id_fields_gets_a_random_id() -> None:
    converter = Converter({"Generic": "1.0.0"}, configs=lambda: StreamConfigs({}))

    def twice(log_format: str, line: str) -> list[dict[str, Any]]:
        convert = raw_log(LogFormat(log_format), converter, line_bytes_max=10**6)
        return [json.loads(convert(line.encode())) for _ in range(2)]

    query = f"?{quote(json.dumps(SENT))};"
    first, second = twice(FORMAT, f"{query} {END}")
    assert first["uuid"] == second["uuid"] == "749684341abf513186c71f74c6a09502"
    first, second = twice("%q %D", f"{query} 2013-01-19T23:16:38")
    assert first["uuid"] != second["uuid"]
    assert "id" not in first["meta"], "the intake generates one"


def test_an_invalid_line_is_reported_with_the_format() -> None:
    with pytest.raises(EventProblem, match=re.escape(f"does not fit the format {FORMAT!r}")) as e:
        parsed(FORMAT, "S3CRET garbage")
    assert "S3CRET garbage" in e.value.message
    assert "S3CRET" not in e.value.rule


@pytest.mark.parametrize("day", ["2013-02-30", "2013-13-01", "2013-00-10"])
def test_a_time_that_does_not_exist_is_a_problem(day: str) -> None:
    with pytest.raises(EventProblem, match="is not a time"):
        parsed("%q %D", f"?%7B%7D {day}T23:16:38")


@given(CAPSULES, st.data())
def test_formatted_lines_are_parsed(capsule: dict[str, Any], data: Any) -> None:
    """Fields are parsed in any order, and those of the capsule take precedence."""
    names = data.draw(st.lists(FIELDS, max_size=4, unique=True))
    assume({"dt", "userAgent", "capsule"}.isdisjoint(names))
    kinds = {name: data.draw(st.sampled_from("sdi")) for name in names}
    values = {name: data.draw(KINDS[kinds[name]]) for name in names}
    query = f"?{quote(json.dumps(capsule), safe='')};"
    parts = [("%q", query), *((f"%{{{n}}}{kinds[n]}", values[n]) for n in names)]
    if data.draw(st.booleans()):
        parts.append(("%o", data.draw(WORDS)))
    time = data.draw(TIMES)
    parts.append((data.draw(st.sampled_from(["%D", "%t"])), time))
    parts = data.draw(st.permutations(parts))
    raw = parsed(r"\t".join(p for p, _ in parts), "\t".join(text for _, text in parts))
    fields = {n: int(v) if kinds[n] == "d" else v for n, v in values.items()}
    assert raw.capsule == {**fields, **capsule}
    assert raw.dt == f"{time}Z"


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 5))
def test_a_space_matches_any_spaces(words: list[str], spaces: int) -> None:
    names = [f"f{n}" for n in range(len(words))]
    log_format = " ".join(["%q", *(f"%{{{name}}}s" for name in names)])
    raw = parsed(log_format, (" " * spaces).join(["?%7B%7D", *words]))
    assert raw.capsule == dict(zip(names, words, strict=True))


@given(st.text(st.characters(exclude_characters="%\\", exclude_categories=["Cs", "Z", "C"])))
@example(".*+?[](){}^$|")
def test_text_between_specifiers_is_literal(text: str) -> None:
    raw = parsed(f"{text}%{{a}}d%% %q", f"{text}17% ?%7B%7D")
    assert raw.capsule == {"a": 17}


@given(st.text(max_size=30))
@example("%")
@example("%{")
@example("%{a}")
@example("%q%{(?P<x>a)}s")
def test_any_format_is_compiled_or_refused_with_a_caret(text: str) -> None:
    try:
        LogFormat(text)
    except FormatError as error:
        refusal = str(error)
    else:
        return
    assert "\n  " in refusal
    assert refusal.endswith("^")


@given(st.text(max_size=60))
@example("? a 1 2013-01-19T23:16:38 - u")
def test_any_line_is_parsed_or_a_problem(line: str) -> None:
    with pytest.raises(EventProblem):
        parsed(FORMAT, line.replace("%7B", ""))


@pytest.mark.parametrize(
    ("log_format", "reason"),
    [
        ("%{recvFrom}s", "a format needs %q or %j, which is the capsule"),
        ("%q %j", "%j is the second specifier of capsule"),
        ("%q %{a}s %{a}d", "%{a}d is the second specifier of a"),
        ("%q %D %t", "%t is the second specifier of dt"),
        ("%q %s", "%s needs the name of a field, such as %{seqId}s"),
        ("%q %{a b}s", "%s needs the name of a field, such as %{seqId}s"),
        ("%{x}q", "%q takes no name"),
        ("%q %n", "%n is not one of"),
        ("%q %", "% is not one of"),
    ],
)
def test_a_meaningless_format_is_refused(log_format: str, reason: str) -> None:
    with pytest.raises(FormatError, match=re.escape(reason)):
        LogFormat(log_format)
