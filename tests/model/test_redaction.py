"""Redaction: the events that rules match, and the fields that are removed completely."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import Frame
from eventstreams.model.redaction import Redaction, Redactions, Rule
from tests.support.strategies import event_documents

DOMAIN = "test.wikipedia.org"
SECRET = "S3CRET"


def rule(*titles: Any, remove: tuple[str, ...] = ("user", "performer"), **more: Any) -> Rule:
    return Rule(DOMAIN, titles, remove, **more)


def event(title: Any, field: str = "title", domain: str = DOMAIN) -> dict[str, Any]:
    fields: dict[str, Any] = {"meta": {"domain": domain}, "user": SECRET, "kept": 1}
    inner = fields
    *parents, last = field.split(".")
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = title
    return fields


@pytest.mark.parametrize(
    ("listed", "title"),
    [
        ("redact", "redact"),
        ("Redact this", "redact_this"),
        ("redact_this", "Redact this"),
        ("redact this", "  redact   this "),
        ("redact this", "redact _ this"),
        (False, "false"),
        (404, "404"),
        ("404", 404),
        ("Ünïcode", "ünïCODE"),
        ("Шаблон: X", "Шаблон:X"),  # a space after the colon, as in a real list
        ("Template : X", "Template:X"),
        ("Template:X", "template:_X"),
        ("Template:A: b", "Template: A: b"),
        (":Redact", "Redact"),
        (": Template:X", "Template:X"),
        ("_redact_", "redact"),
        ("redact\u00a0this", "redact this"),
        ("redact\u3000\u2009this", "redact_this"),
        ("\u200eredact\u202c", "redact"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("Q&amp;A", "Q&A"),
        ("Q&Amp;A", "Q&AMP;A"),
        ("Q&Amp", "Q&"),
        ("A&#39;s", "A's"),
        ("Redact#History", "Redact"),
        ("redact\tthis\n", "redact this"),
    ],
)
@pytest.mark.parametrize("field", ["title", "page_title", "page.page_title"])
def test_a_title_matches_in_any_spelling(listed: Any, title: Any, field: str) -> None:
    document = event(title, field)
    assert Redaction([rule("other", listed)]).apply(document)
    assert "user" not in document
    assert document["kept"] == 1


@pytest.mark.parametrize(
    "document",
    [
        event("redact", domain="other.org"),
        event("redact it"),
        event("red act"),
        event("redact:"),
        event("redact/sub"),
        event("xredact"),
        event("redact", "comment"),
        event(["redact"]),
        event(None),
        {"title": "redact"},
        {"meta": {"domain": [DOMAIN]}, "title": "redact"},
        {"meta": 7, "title": "redact"},
        {},
        [],
        [7],
        "redact",
        None,
    ],
)
def test_other_events_are_unchanged(document: Any) -> None:
    before = json.dumps(document)
    assert not Redaction([rule("redact", None.__class__.__name__)]).apply(document)
    assert json.dumps(document) == before


def test_a_domain_matches_in_any_case() -> None:
    document = event("redact", domain=DOMAIN.upper())
    assert Redaction([Rule(DOMAIN.title(), ("redact",), ("user",))]).apply(document)
    assert "user" not in document


def test_only_the_first_colon_of_a_title_ends_a_namespace() -> None:
    assert not Redaction([rule("Template:A: b")]).apply(event("Template:A:b"))


_TITLES = st.text(st.sampled_from("aA bБ_:#\u00a0\u0301\u200e&amp;"), max_size=12)


@given(_TITLES)
def test_a_title_matches_every_spelling_of_itself(title: str) -> None:
    spelt = f" _{title.replace(' ', '_').upper()}\u200e "
    if spelt.lower() == f" _{title.replace(' ', '_').lower()}\u200e ":
        assert Redaction([rule(title)]).apply(event(spelt))


def test_paths_lead_through_maps_and_lists_and_may_lead_nowhere() -> None:
    document: dict[str, Any] = {
        **event("redact"),
        "performer": {"user_text": SECRET},
        "revision": {"editor": SECRET, "slots": [{"by": SECRET, "n": 1}, 7, [{"by": SECRET}]]},
        "prior_state": None,
    }
    paths = ("user", "performer", "revision.editor", "revision.slots.by", "prior_state.a.b", "x.y")
    assert Redaction([rule("redact", remove=paths)]).apply(document)
    assert SECRET not in json.dumps(document)
    assert document["revision"] == {"slots": [{"n": 1}, 7, [{}]]}
    assert document["prior_state"] is None


def test_all_matching_rules_apply() -> None:
    document = {**event("redact"), "performer": SECRET}
    rules = [rule("redact", remove=("user",)), rule("Redact", remove=("performer",))]
    assert Redaction(rules).apply(document)
    assert SECRET not in json.dumps(document)


def test_each_event_of_an_array_is_redacted() -> None:
    several = [event("keep"), event("redact"), event("redact")]
    assert Redaction([rule("redact")]).apply(several)
    assert [("user" in each) for each in several] == [True, False, False]


def frame(value: Any, redactions: Redactions) -> Frame:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Frame(Event(Partition("t", 0), 5, 1_000, raw, SECRET.encode()), redactions)


def test_later_redactions_apply_to_existing_frames() -> None:
    redactions = Redactions()
    made, fresh = frame(event("redact"), redactions), frame(event("redact"), redactions)
    assert SECRET in (made.data or b"").decode()
    redactions.replace({"t": Redaction([rule("redact", remove=("user", "meta.key"))])})
    for one in (made, fresh):
        data = one.data or b""
        assert SECRET.encode() not in data
        assert json.loads(data)["kept"] == 1
        assert json.loads(data)["meta"]["offset"] == 5
        assert one.data is data, "once"
    assert "key" not in json.loads(made.data or b"")["meta"]
    redactions.replace({})
    assert SECRET.encode() not in (made.data or b"")


def test_equal_rules_are_no_change() -> None:
    redactions = Redactions()
    assert not redactions.replace({})
    assert redactions.replace({"t": Redaction([rule("a")])})
    held = redactions.of("t")
    assert not redactions.replace({"t": Redaction([rule("a")])})
    assert redactions.replace({"t": Redaction([rule("a")]), "u": Redaction([rule("b")])})
    assert redactions.of("t") is held, "so frames need not be checked again"


@pytest.mark.parametrize(
    "value", [b'{"meta":{"domain":"%s"},"title":"redact","user":"S3CRET \\ud800"}']
)
def test_events_with_lone_surrogates_are_redacted(value: bytes) -> None:
    redactions = Redactions({"t": Redaction([rule("redact")])})
    data = frame(value.replace(b"%s", DOMAIN.encode()), redactions).data
    assert data is not None
    assert SECRET.encode() not in data


@given(event_documents(), st.booleans())
def test_events_that_match_no_rule_keep_their_bytes(document: Any, later: bool) -> None:
    plain = frame(document, Redactions()).data
    redactions = Redactions()
    one = frame(document, redactions)
    if later:
        assert one.data == plain
    redactions.replace({"t": Redaction([rule("no such page")])})
    assert one.data == plain
