"""Rule files of both formats are read, and every mistake is reported with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eventstreams.errors import ConfigError
from eventstreams.filters.document import Document, Origin
from eventstreams.propagation.actions import Request
from eventstreams.propagation.functions import TemplateError
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.rule_file import RuleFile, load_rules

RULES = Path(__file__).parent / "rules"
ORIGIN = Origin("topic", 0, 0, 0)


def load(tmp_path: Path, text: str) -> RuleFile:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return load_rules(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [problem.removeprefix(f"{tmp_path}/rules.yaml:") for problem in caught.value.problems]


def one(tmp_path: Path, spec: str) -> Rule:
    lines = "".join(f"    {line}\n" for line in spec.splitlines())
    [rule] = load(tmp_path, f"rules:\n  r:\n    topic: t\n{lines}").rules
    return rule


def chosen(rule: Rule, event: Any) -> int | None:
    case = rule.choose(event, Document(ORIGIN, b'{"n": 1}'))
    return None if case is None else rule.cases.index(case)


def test_a_configuration_of_change_propagation_is_read_as_it_is() -> None:
    loaded = load_rules(RULES / "static.yaml")
    assert loaded.service == "changeprop"
    assert loaded.consume_prefix == "dc1."
    assert loaded.user_agent == "PropagationTestSuite"
    rules = {rule.name: rule for rule in loaded.rules}
    assert list(rules) == [
        "simple_rule", "redirect_rule", "producing_rule", "sample_rule", "array_rule"
    ]  # fmt: skip
    simple = rules["simple_rule"]
    assert [pattern.literal for pattern in simple.topic_patterns] == ["/^simple_topic$/"]
    assert simple.concurrency == 4, "that of the module"
    assert (simple.retry.limit, simple.retry.delay_ms) == (2, 10)
    assert [use.type for use in simple.limits] == ["blacklist"]
    assert rules["array_rule"].topics == ("simple_topic", "second_topic")


def test_an_environment_variable_disables_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTSTREAMS_TEST_NO_LIMITS", "1")
    rules = {rule.name: rule for rule in load_rules(RULES / "static.yaml").rules}
    assert rules["simple_rule"].limits == ()


def test_a_configuration_of_the_job_queue_is_read_as_it_is() -> None:
    loaded = load_rules(RULES / "jobs.yaml")
    rules = {rule.name: rule for rule in loaded.rules}
    assert rules.keys() == {"partition_refreshLinks", "updateCounts", "htmlCacheUpdate"}
    assert rules["updateCounts"].concurrency == 2
    assert rules["htmlCacheUpdate"].concurrency == 250
    assert rules["htmlCacheUpdate"].claim_ttl_s == 3600


def test_a_file_in_our_format_is_read() -> None:
    loaded = load_rules(RULES / "wikimedia.yaml")
    rules = {rule.name: rule for rule in loaded.rules}
    assert loaded.targets.allow_hosts == {"target.test"}
    assert [case.parallel for case in rules["null_edit"].cases] == [True]
    assert rules["transcluding_page"].order_by is not None
    assert len(rules["page_edit"].cases) == 2


def test_every_mistake_is_reported_with_line_and_column(tmp_path: Path) -> None:
    text = """\
service: x
rules:
  first:
    match: {a: null}
    retry_limit: -1
    concurency: 3
    exec: {uri: 'http://x/{{mesage.a}}'}
  second:
    topic: t
    match_not: [{a: b}, {a: '/(/'}]
    when: event.a ==
    exec:
      - {method: get}
      - {uri: /sys/links/backlinks/x}
      - {uri: 'http://x', headers: {'a b': c}}
"""
    found = problems(tmp_path, text)
    places = [re.match(r"(\d+:\d+: [^:]+):", each) for each in found]
    assert [place and place[1] for place in places] == [
        "3:3: rules.first",
        "4:13: rules.first.match.a",
        "5:5: rules.first.retry_limit",
        "6:5: rules.first.concurency",
        "7:12: rules.first.exec.uri",
        "10:26: rules.second.match_not[1].a",
        "11:5: rules.second.when",
        "13:9: rules.second.exec[0]",
        "14:10: rules.second.exec[1].uri",
        "15:37: rules.second.exec[2].headers.a b",
    ]
    assert "did you mean concurrency?" in "\n".join(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a mapping"),
        ("rules: []", "must be a mapping of rules"),
        ("rules: {}", "contains no rules"),
        ("rules: {a: null}", "must be a mapping, not null"),
        ("rules: {a b: {topic: t}}", "letters, digits"),
        ("rules: {a: {topic: t, limiters: {x: y}}}", "no limiter of this type"),
        ("rules: {a: {topic: t, sample: {rate: 0.001, hash_template: x}}}", "from 0.01 to 1"),
        ("rules: {a: {topic: t, sample: {rate: 0.5}}}", "needs `hash_template`"),
        ("rules: {a: {topic: t, exec: {uri: ftp://x}}}", "must be an absolute URL"),
        ("rules: {a: {topic: t, exec: {uri: x/y}}}", "must be an absolute URL"),
        ("rules: {a: {topic: t, exec: {partition: {key: a}}}}", "needs `stream` and `key`"),
        ("rules: {a: {topic: t, cases: []}}", "at least one"),
        ("rules: {a: {topic: t, dedupe: [name]}}", "list of id, sha1 and root"),
        ("limiters: {x: {limit: 3}}\nrules: {a: {topic: t}}", "needs `interval`"),
        ("targets: {allow_private: 1}\nrules: {a: {topic: t}}", "must be true or false"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in "\n".join(problems(tmp_path, text))


def test_zero_retries_and_delays_are_accepted(tmp_path: Path) -> None:
    rule = one(tmp_path, "retry_limit: 0\nretry_delay: 0\nretry_factor: 0")
    assert (rule.retry.limit, rule.retry.delay_ms, rule.retry.factor) == (0, 0, 0)


def test_a_rule_without_exec_does_nothing(tmp_path: Path) -> None:
    [case] = one(tmp_path, "").cases
    assert case.actions == ()
    assert chosen(one(tmp_path, ""), {"n": 1}) == 0


def test_match_not_excludes_events_that_any_of_a_list_matches(tmp_path: Path) -> None:
    rule = one(tmp_path, "match: {n: 1}\nmatch_not: [{a: 1}, {b: 1}]")
    assert chosen(rule, {"n": 1}) == 0
    assert chosen(rule, {"n": 1, "a": 1}) is None
    assert chosen(rule, {"n": 1, "b": 1}) is None
    assert chosen(rule, {"n": 2}) is None


def test_the_first_case_that_matches_wins(tmp_path: Path) -> None:
    rule = one(tmp_path, "cases:\n- {match: {n: 1}}\n- {match: {n: '/x/'}}\n- {match_not: {n: 2}}")
    assert [chosen(rule, {"n": n}) for n in (1, "x", 3, 2)] == [0, 1, 2, None]


def test_canaries_are_dropped_unless_the_rule_takes_them(tmp_path: Path) -> None:
    canary = {"meta": {"domain": "canary"}}
    assert chosen(one(tmp_path, ""), canary) is None
    assert chosen(one(tmp_path, "discard_canary_events: false"), canary) == 0


def test_when_is_an_expression_of_the_filter_language(tmp_path: Path) -> None:
    rule = one(tmp_path, 'when: event.n > 3 && topic == "topic"')
    documents = [Document(ORIGIN, text) for text in (b'{"n": 4}', b'{"n": 3}')]
    assert [rule.choose({}, each) is not None for each in documents] == [True, False]


def test_values_that_are_not_objects_match_nothing(tmp_path: Path) -> None:
    assert [chosen(one(tmp_path, ""), each) for each in (None, [], "x", 3)] == [None] * 4


# Requests.


def request(tmp_path: Path, spec: str, event: Any) -> Request:
    [case] = one(tmp_path, spec).cases
    [made] = case.render(event, user_agent="agent")
    assert isinstance(made, Request)
    return made


META = {"stream": "s", "uri": "/u", "request_id": "req-1", "domain": "d.org"}


def test_a_request_names_its_trigger(tmp_path: Path) -> None:
    made = request(tmp_path, "exec: {uri: 'http://x/{message.t}'}", {"meta": META, "t": "a/b"})
    assert (made.method, made.uri, made.body) == ("GET", "http://x/a%2Fb", None)
    assert made.headers == {
        "user-agent": "agent",
        "x-request-id": "req-1",
        "x-triggered-by": "req:req-1,s:/u",
    }
    assert made.timeout_s == 420


def test_a_body_that_is_an_object_is_json_or_a_form(tmp_path: Path) -> None:
    event = {"meta": META, "n": 1, "t": "ä b"}
    as_json = request(
        tmp_path, "exec: {method: post, uri: http://x, body: {n: '{{message.n}}', m: 1}}", event
    )
    assert (as_json.body, as_json.headers["content-type"]) == (b'{"n":1,"m":1}', "application/json")
    form = "headers: {Content-Type: application/x-www-form-urlencoded}, body: {t: '{{message.t}}'}"
    as_form = request(tmp_path, f"exec: {{method: post, uri: http://x, {form}}}", event)
    assert as_form.body == b"t=%C3%A4+b"
    verbatim = request(
        tmp_path, "exec: {method: post, uri: http://x, body: '{{globals.message}}'}", event
    )
    assert verbatim.body == b'{"meta":{"stream":"s","uri":"/u","request_id":"req-1",' + (
        '"domain":"d.org"},"n":1,"t":"ä b"}'.encode()
    )


def test_a_query_is_added_to_the_uri(tmp_path: Path) -> None:
    made = request(
        tmp_path,
        "exec: {uri: 'http://x/?a=1', query: {b: '{{message.n}}', c: '{{message.missing}}'}}",
        {"meta": META, "n": True},
    )
    assert made.uri == "http://x/?a=1&b=true"


@pytest.mark.parametrize("value", ["a\nx-evil: 1", "a\rb", "\x00"])
def test_an_event_cannot_add_headers(tmp_path: Path, value: str) -> None:
    with pytest.raises(TemplateError, match="control character"):
        request(
            tmp_path,
            "exec: {uri: http://x, headers: {a: '{{message.v}}'}}",
            {"meta": META, "v": value},
        )


@pytest.mark.parametrize(
    "value",
    ["file:///etc/passwd", "x y", "http://a b/", "http://a/\n", "http://", "http://h:99999", ""],
)
def test_an_event_cannot_change_the_kind_of_request(tmp_path: Path, value: str) -> None:
    with pytest.raises(TemplateError, match="absolute"):
        request(tmp_path, "exec: {uri: '{{message.v}}'}", {"meta": META, "v": value})


def test_blacklisted_pages_are_ignored(tmp_path: Path) -> None:
    rule = one(tmp_path, "blacklist: {d.org: [Some Page, '/Sandbox$/']}")

    def listed(uri: str, domain: str = "d.org") -> bool:
        return rule.lists({"meta": {"domain": domain, "uri": uri}})

    assert listed("https://d.org/wiki/Some_Page")
    assert listed("https://d.org/wiki/Some%20Page")
    assert listed("https://d.org/wiki/My%53andbox")
    assert not listed("https://d.org/wiki/Other")
    assert not listed("https://e.org/wiki/Some_Page", "e.org")
    assert not rule.lists({})


def test_aliases_that_expand_to_billions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 10):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    text = "\n".join(lines) + "\nrules: {r: {topic: t, exec: {uri: 'http://x/', body: *a9}}}\n"
    [problem] = problems(tmp_path, text)
    assert "more than 100,000 values" in problem


def test_an_alias_that_contains_itself_is_refused(tmp_path: Path) -> None:
    text = "rules: {r: {topic: t, match: {a: &a [*a, *a, *a, *a]}, exec: {uri: 'http://x/'}}}"
    [problem] = problems(tmp_path, text)
    assert "refers to the value itself" in problem


def test_an_alias_may_be_used_by_many_rules(tmp_path: Path) -> None:
    rules = "".join(f"  r{n}: {{topic: t, exec: *run}}\n" for n in range(50))
    text = f"rules:\n  r: {{topic: t, exec: &run {{uri: 'http://x/'}}}}\n{rules}"
    assert len(load(tmp_path, text).rules) == 51
