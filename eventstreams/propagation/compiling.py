"""Compiles the specification of one rule to a Rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from eventstreams.errors import ClientError
from eventstreams.filters.cel import Program, compile_filter
from eventstreams.propagation import matching, retry, template
from eventstreams.propagation.actions import (
    TIMEOUT_S,
    ActionTemplate,
    HttpAction,
    PartitionAction,
    ProduceAction,
    is_header_name,
)
from eventstreams.propagation.retry import RetryPolicy
from eventstreams.propagation.rule import DEDUPLICATIONS, Case, LimitUse, ListedTitles, Rule
from eventstreams.propagation.sampling import Sampler
from eventstreams.propagation.sections import (
    KeyPath,
    Section,
    as_boolean,
    as_count,
    as_count_or_zero,
    as_deduplications,
    as_mapping,
    as_method,
    as_not_negative,
    as_order,
    as_positive,
    as_rate,
    as_seconds_or_none,
    as_share,
    as_template_text,
    as_text,
    as_texts,
    as_truth,
)
from eventstreams.propagation.template import Template, Text

_PRODUCE = "/sys/queue/events"
_PARTITION = "/sys/partition/"
_RETRY_ON: Mapping[str, Any] = {"status": ["50x"]}
_IGNORE: Mapping[str, Any] = {"status": [412]}
_RETRIES = RetryPolicy()
_UNUSED = ("report", "consumer", "consumer_batch_size")
"""Options of change-propagation that have no meaning here and are ignored."""


def compile_rule(name: str, section: Section, limiters: Mapping[str, Any]) -> Rule:
    """Compile a rule. Mistakes are added to the problems of the section."""
    problems = section.problems
    topics, patterns = _topics(section)
    excluded = frozenset(section.take("exclude_topics", as_texts, tuple[str, ...]()))
    cases = _cases(section)
    retry_limit = section.take("retry_limit", as_count_or_zero, _RETRIES.limit)
    rule = Rule(
        name=name,
        topics=tuple(topic for topic in topics if topic not in excluded),
        topic_patterns=patterns,
        excluded_topics=excluded,
        cases=cases,
        retry_on=section.take(
            "retry_on", retry.compile_conditions, retry.compile_conditions({**_RETRY_ON})
        ),
        ignore=section.take(
            "ignore", retry.compile_conditions, retry.compile_conditions({**_IGNORE})
        ),
        retry=RetryPolicy(
            limit=retry_limit,
            delay_ms=int(section.take("retry_delay", as_not_negative, float(_RETRIES.delay_ms))),
            factor=section.take("retry_factor", as_not_negative, _RETRIES.factor),
            jitter=section.take("retry_jitter", as_share, _RETRIES.jitter),
        ),
        concurrency=section.take("concurrency", as_count, 30),
        waiting_max=section.take("waiting_max", as_count, 10_000),
        order_by=section.take("order_by", as_template_text, None),
        limits=_limits(section, limiters),
        claim_ttl_s=section.take("claim_ttl", as_seconds_or_none, None),
        root_claim_ttl_s=section.take("root_claim_ttl", as_seconds_or_none, None),
        discards_canaries=section.take("discard_canary_events", as_boolean, True),
        delays=not section.take("disable_delayed_execution", as_boolean, False),
        reenqueue_delay_s=section.take("reenqueue_delay", as_not_negative, 20.0),
        blacklist=_blacklist(section),
        decode_results=section.take("decode_results", as_boolean, False),
        deduplicate=section.take("dedupe", as_deduplications, DEDUPLICATIONS),
        dedupe_window_s=section.take("dedupe_window", as_not_negative, 86_400.0),
        loop_limit=section.take("loop_limit", as_count_or_zero, 10),
    )
    if not rule.topics and not rule.topic_patterns and (topics or not patterns):
        problems.add(section.path, "needs `topic` or `topics`, which name what the rule reads")
    for unused in _UNUSED:
        section.give(unused)
    section.end()
    return rule


def _topics(section: Section) -> tuple[list[str], tuple[matching.Expression, ...]]:
    names = [
        *section.take("topic", as_texts, tuple[str, ...]()),
        *section.take("topics", as_texts, tuple[str, ...]()),
    ]
    topics: list[str] = []
    patterns: list[matching.Expression] = []
    for name in names:
        try:
            expression = matching.compile_literal(name)
        except ValueError as error:
            section.problems.add((*section.path, "topic"), str(error))
            continue
        if expression is None:
            topics.append(name)
        else:
            patterns.append(expression)
    return list(dict.fromkeys(topics)), tuple(patterns)


def _cases(section: Section) -> tuple[Case, ...]:
    if "cases" not in section:
        return (_case(section),)
    for overridden in ("match", "match_not", "exec", "sample", "when", "order"):
        section.give(overridden)  # as in change-propagation, cases replace them
    given: Any = section.give("cases")
    path = (*section.path, "cases")
    if not isinstance(given, list) or not given:
        section.problems.add(path, "must be a list of at least one case")
        return ()
    cases: list[Case] = []
    for n, spec in enumerate(cast("list[Any]", given)):
        inner = Section(spec, (*path, n), section.problems)
        cases.append(_case(inner))
        inner.end()
    return tuple(cases)


def _case(section: Section) -> Case:
    return Case(
        match=section.take("match", matching.compile_pattern, None),
        match_not=section.take("match_not", _match_not, ()),
        when=section.take("when", _when, None),
        actions=tuple(_actions(section)),
        parallel=section.take("order", as_order, "sequential") == "parallel",
        sampler=_sampler(section),
    )


def _match_not(value: Any) -> tuple[matching.Fields, ...]:
    if not isinstance(value, list):
        return (matching.compile_pattern(value),)
    compiled: list[matching.Fields] = []
    for n, each in enumerate(cast("list[Any]", value)):
        try:
            compiled.append(matching.compile_pattern(each))
        except matching.PatternError as error:
            raise matching.PatternError((n, *error.path), error.reason) from error
    return tuple(compiled)


def _when(value: Any) -> Program | None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be an expression in CEL, such as event.namespace == 0")
    try:
        return compile_filter(value)
    except ClientError as error:
        raise ValueError(str(error)) from error


def _sampler(section: Section) -> Sampler | None:
    given: Any = section.give("sample")
    if given is None:
        return None
    inner = Section(given, (*section.path, "sample"), section.problems)
    rate = inner.take("rate", as_rate, 1.0)
    text = inner.take("hash_template", as_template_text, None)
    inner.end()
    if text is None:
        section.problems.add(inner.path, "needs `hash_template`, the text to hash")
        return None
    return Sampler(rate, text)


def _actions(section: Section) -> Iterator[ActionTemplate]:
    given: Any = section.give("exec")
    if given is None:
        return
    path: KeyPath = (*section.path, "exec")
    listed = cast("list[Any]", given) if isinstance(given, list) else [given]
    for n, spec in enumerate(listed):
        where = (*path, n) if isinstance(given, list) else path
        inner = Section(spec, where, section.problems)
        action = _action(inner)
        inner.end()
        if action is not None:
            yield action


def _action(section: Section) -> ActionTemplate | None:
    if "produce" in section:
        events = section.take("produce", template.compile_template, None)
        return None if events is None else ProduceAction(events)
    if "partition" in section:
        inner = Section(section.give("partition"), (*section.path, "partition"), section.problems)
        return _partition(inner)
    return _request(section)


def _request(section: Section) -> ActionTemplate | None:
    if "uri" not in section:
        section.problems.add(section.path, "needs `uri`, `produce` or `partition`")
    uri = section.take("uri", as_template_text, None)
    method = section.take("method", as_method, "GET")
    body = section.take("body", template.compile_template, None)
    headers = _headers(section)
    timeout_s = section.take("timeout", as_positive, TIMEOUT_S * 1000) / 1000
    query = section.take("query", template.compile_template, None)
    redirects = section.take("follow_redirects", as_count_or_zero, 0)
    if uri is None:
        return None
    if uri.prefix.rstrip("/").startswith(_PRODUCE):
        if body is None:
            section.problems.add(section.path, f"{_PRODUCE} needs `body`, the events to produce")
            return None
        return ProduceAction(body)
    if problem := _uri_problem(uri):
        section.problems.add((*section.path, "uri"), problem)
        return None
    return HttpAction(method, uri, headers, query, body, timeout_s, redirects)


def _uri_problem(uri: Text) -> str | None:
    prefix = uri.prefix.lower()
    if prefix.startswith("/sys/"):
        return (
            f"{uri.prefix} is a module of change-propagation that is not part of this program; "
            f"{_PRODUCE} is, and `partition:` replaces {_PARTITION}"
        )
    if prefix.startswith(("http://", "https://")) or (not prefix and not uri.is_constant):
        return None
    return "must be an absolute URL that begins with http:// or https://"


def _headers(section: Section) -> tuple[tuple[str, Template], ...]:
    given: Any = section.give("headers")
    if given is None:
        return ()
    path = (*section.path, "headers")
    inner = Section(given, path, section.problems)
    headers: list[tuple[str, Template]] = []
    for name in cast("dict[Any, Any]", given) if isinstance(given, dict) else ():
        text = str(name)
        if not is_header_name(text):
            section.problems.add((*path, text), "is not the name of an HTTP header")
        compiled = inner.take(text, template.compile_template, None)
        if compiled is not None and text.lower() not in ("content-length", "transfer-encoding"):
            headers.append((text.lower(), compiled))
    return tuple(headers)


def _partition(section: Section) -> PartitionAction | None:
    stream = section.take("stream", as_template_text, None)
    key = section.take("key", as_text, None)
    partitions = section.take("map", _partition_map, dict[str, int]())
    default = section.take("default", as_count_or_zero, 0)
    section.end()
    if stream is None or key is None:
        section.problems.add(section.path, "needs `stream` and `key`")
        return None
    return PartitionAction(stream, tuple(key.split(".")), partitions, default)


def _partition_map(value: Any) -> dict[str, int]:
    return {str(key): as_count_or_zero(number) for key, number in as_mapping(value).items()}


def _limits(section: Section, limiters: Mapping[str, Any]) -> tuple[LimitUse, ...]:
    disabled = section.take("disable_ratelimit", as_truth, False)
    given: Any = section.give("limiters")
    if given is None:
        return ()
    path = (*section.path, "limiters")
    inner = Section(given, path, section.problems)
    uses: list[LimitUse] = []
    for kind in cast("dict[Any, Any]", given) if isinstance(given, dict) else ():
        text = inner.take(str(kind), as_template_text, None)
        if str(kind) not in limiters:
            known = ", ".join(limiters) or "none"
            section.problems.add(
                (*path, str(kind)), f"no limiter of this type is configured; known: {known}"
            )
        elif text is not None:
            uses.append(LimitUse(str(kind), text))
    return () if disabled else tuple(uses)


def _blacklist(section: Section) -> dict[str, ListedTitles]:
    disabled = section.take("disable_blacklist", as_truth, False)
    given: Any = section.give("blacklist")
    if given is None or disabled:
        return {}
    path = (*section.path, "blacklist")
    inner = Section(given, path, section.problems)
    listed: dict[str, ListedTitles] = {}
    for domain in cast("dict[Any, Any]", given) if isinstance(given, dict) else ():
        listed[str(domain)] = inner.take(str(domain), _titles, ListedTitles(frozenset(), ()))
    return listed


def _titles(value: Any) -> ListedTitles:
    titles: list[str] = []
    expressions: list[matching.Expression] = []
    for text in as_texts(value):
        expression = matching.compile_literal(text)
        if expression is None:
            titles.append(text)
        else:
            expressions.append(expression)
    return ListedTitles(frozenset(titles), tuple(expressions))
