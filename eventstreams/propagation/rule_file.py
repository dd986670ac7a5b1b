"""Reads rule files, and reports all mistakes of a file with their places.

There are two formats. Ours has `rules` at the top level. The configuration of change-propagation
has the same rules under `services`, as `templates` of the modules `sys/kafka.js` and
`sys/partitioner.js`; its other modules and the settings of the HyperSwitch framework are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from eventstreams.config.yaml_file import read_yaml
from eventstreams.propagation import matching
from eventstreams.propagation.breaker import BreakerPolicy
from eventstreams.propagation.compiling import compile_rule
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.sections import (
    NAME,
    KeyPath,
    Problems,
    Section,
    as_boolean,
    as_count,
    as_count_or_zero,
    as_mapping,
    as_name,
    as_positive,
    as_start,
    as_text,
    as_texts,
    as_truth,
)

SERVICE = "change-propagation"


class Limit(NamedTuple):
    """A number of failures within a time."""

    interval_s: float
    limit: int


@dataclass(frozen=True, slots=True)
class Targets:
    """Permitted targets of requests in addition to public addresses."""

    allow_private: bool = False
    allow_hosts: frozenset[str] = frozenset()
    connections_per_host: int = 30


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The rules of a file, and the options that apply to all of them."""

    rules: tuple[Rule, ...]
    service: str = SERVICE
    consume_prefix: str | None = None
    """The prefix of topics. If None, the catalogue determines the topics of streams."""
    produce_prefix: str | None = None
    start: Literal["latest", "earliest"] = "latest"
    """Where a rule begins that has not run before."""
    user_agent: str = ""
    limiters: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict[str, tuple[Limit, ...]])
    targets: Targets = field(default_factory=Targets)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    producing: bool = True
    """False in `test_mode` of change-propagation: nothing is produced or committed."""


def load_rules(path: Path) -> RuleFile:
    """Read a rule file. Raises ConfigError with every mistake."""
    document = read_yaml(path)
    problems = Problems(path)
    if isinstance(document, dict) and "services" in document and "rules" not in document:
        loaded = _upstream(cast("dict[Any, Any]", document), problems)
    else:
        loaded = _ours(document, problems)
    if not loaded.rules:
        problems.add((), "contains no rules")
    problems.raise_all()
    return loaded


def _ours(document: Any, problems: Problems) -> RuleFile:
    top = Section(document, (), problems)
    service = top.take("service", as_name, SERVICE)
    consume = top.take("consume_prefix", as_text, None) or top.take("topic_prefix", as_text, None)
    produce = top.take("produce_prefix", as_text, None) or consume
    defaults = top.take("defaults", as_mapping, dict[str, Any]())
    limiters = top.take("limiters", _limiters, dict[str, tuple[Limit, ...]]())
    rules = _rules(top.give("rules"), ("rules",), problems, defaults=defaults, limiters=limiters)
    loaded = RuleFile(
        rules=rules,
        service=service,
        consume_prefix=consume,
        produce_prefix=produce,
        start="earliest" if top.take("start", as_start, "latest") == "earliest" else "latest",
        user_agent=top.take("user_agent", as_text, None) or f"eventstreams-propagate/{service}",
        limiters=limiters,
        targets=_targets(top, problems),
        breaker=_breaker(top, problems),
    )
    top.end()
    return loaded


def _upstream(document: Mapping[Any, Any], problems: Problems) -> RuleFile:
    """Read the rules of a configuration of change-propagation."""
    rules: list[Rule] = []
    service, agent = SERVICE, None
    consume: str | None = None
    produce: str | None = None
    producing = True
    limiters: dict[str, tuple[Limit, ...]] = {}
    modules = list(_modules(document))
    for found in modules:
        service, agent = found.service, found.agent or agent
        if found.path.endswith("rate_limiter.js"):
            section = Section(found.options, found.place, problems)
            limiters.update(section.take("limiters", _limiters, dict[str, tuple[Limit, ...]]()))
    for found in modules:
        options, place = found.options, found.place
        if found.path.endswith("kafka.js"):
            dc = options.get("dc_name")
            consume = _dc(options.get("consume_dc", dc)) or consume
            produce = _dc(options.get("produce_dc", dc)) or produce
            producing = not options.get("test_mode", False)
            defaults = {"concurrency": options["concurrency"]} if "concurrency" in options else {}
            if as_truth(options.get("disable_ratelimit")):
                defaults["disable_ratelimit"] = True
            given: Any = options.get("templates")
            rules += _rules(
                {} if given is None else given,
                (*place, "templates"),
                problems,
                defaults=defaults,
                limiters=limiters,
            )
        elif found.path.endswith("partitioner.js"):
            templates: Any = options.get("templates")
            rules += _partitioners(templates, (*place, "templates"), problems)
    return RuleFile(
        rules=tuple(rules),
        service=service,
        consume_prefix=consume,
        produce_prefix=produce,
        user_agent=agent or f"eventstreams-propagate/{service}",
        limiters=limiters,
        producing=producing,
    )


class _Module(NamedTuple):
    service: str
    agent: str | None
    path: str
    options: dict[str, Any]
    place: KeyPath


def _modules(document: Mapping[Any, Any]) -> Iterator[_Module]:
    services: Any = document.get("services")
    for n, service in enumerate(_list(services)):
        conf = _at(service, "conf")
        agent: Any = conf.get("user_agent")
        name = str(cast("dict[str, Any]", service).get("name", SERVICE)) if conf else SERVICE
        for path, content in _at(_at(conf, "spec"), "paths").items():
            fields = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
            for m, module in enumerate(_list(fields.get("x-modules"))):
                place = ("services", n, "conf", "spec", "paths", str(path), "x-modules", m)
                options = _at(module, "options")
                where = str(_at({"": module}, "").get("path", ""))
                text = agent if isinstance(agent, str) else None
                yield _Module(name, text, where, options, (*place, "options"))


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _at(value: Any, key: str) -> dict[str, Any]:
    found: Any = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _dc(value: Any) -> str | None:
    return f"{value}." if isinstance(value, str) and value else None


def _rules(
    value: Any,
    path: KeyPath,
    problems: Problems,
    *,
    defaults: Mapping[str, Any],
    limiters: Mapping[str, Any],
) -> tuple[Rule, ...]:
    if not isinstance(value, dict):
        problems.add(path, f"must be a mapping of rules, not {matching.name_of_type(value)}")
        return ()
    rules: list[Rule] = []
    for name, spec in cast("dict[Any, Any]", value).items():
        where = (*path, str(name))
        if not NAME.fullmatch(str(name)):
            problems.add(
                where, "the name of a rule must be at most 100 letters, digits, dots, _ and -"
            )
        whole: Any = spec
        if isinstance(spec, dict):
            whole = {**defaults, **cast("dict[str, Any]", spec)}
        rules.append(compile_rule(str(name), Section(whole, where, problems), limiters))
    return tuple(rules)


def _partitioners(value: Any, path: KeyPath, problems: Problems) -> Iterator[Rule]:
    """Yield rules that only partition, like those of the partitioner of change-propagation."""
    given = cast("dict[Any, Any]", value) if isinstance(value, dict) else {}
    for name, spec in given.items():
        section = Section(spec, (*path, str(name)), problems)
        names = ("stream", "key", "map", "default")
        action = {each: section.give(f"partition_{each}") for each in names}
        rest = {key: each for key in ("topic", "topics") if (each := section.give(key)) is not None}
        section.end()
        action = {key: each for key, each in action.items() if each is not None}
        made = {**rest, "exec": {"partition": action}}
        yield compile_rule(str(name), Section(made, section.path, problems), {})


def _limiters(value: Any) -> dict[str, tuple[Limit, ...]]:
    limiters: dict[str, tuple[Limit, ...]] = {}
    for name, given in as_mapping(value).items():
        listed = cast("list[Any]", given) if isinstance(given, list) else [given]
        limiters[name] = tuple(_limit(name, each) for each in listed)
    return limiters


def _limit(name: str, value: Any) -> Limit:
    fields = as_mapping(value)
    if not fields.keys() >= {"interval", "limit"}:
        raise ValueError(f"{name}: needs `interval` (seconds) and `limit`")
    if unknown := fields.keys() - {"interval", "limit", "precision"}:
        raise ValueError(f"{name}: unknown option {', '.join(sorted(unknown))}")
    return Limit(as_positive(fields["interval"]), as_count(fields["limit"]))


def _targets(top: Section, problems: Problems) -> Targets:
    given: Any = top.give("targets")
    if given is None:
        return Targets()
    section = Section(given, ("targets",), problems)
    targets = Targets(
        allow_private=section.take("allow_private", as_boolean, False),
        allow_hosts=frozenset(
            host.lower() for host in section.take("allow_hosts", as_texts, tuple[str, ...]())
        ),
        connections_per_host=section.take("connections_per_host", as_count, 30),
    )
    section.end()
    return targets


def _breaker(top: Section, problems: Problems) -> BreakerPolicy:
    given: Any = top.give("circuit_breaker")
    if given is None:
        return BreakerPolicy()
    section = Section(given, ("circuit_breaker",), problems)
    policy = BreakerPolicy(
        failures=section.take("failures", as_count_or_zero, 20),
        pause_ms=int(section.take("pause", as_positive, 30.0) * 1000),
    )
    section.end()
    return policy
