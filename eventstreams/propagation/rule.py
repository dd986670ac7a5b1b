"""Compiled rules: which events they act on, and how.

All types are frozen values, and nothing here performs I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from eventstreams.filters.cel import Program
from eventstreams.filters.document import Document
from eventstreams.propagation.actions import (
    Action,
    ActionTemplate,
    HttpAction,
)
from eventstreams.propagation.matching import Expression, Fields
from eventstreams.propagation.retry import Conditions, RetryPolicy
from eventstreams.propagation.sampling import Sampler
from eventstreams.propagation.template import Text
from eventstreams.propagation.trigger import meta_of

DEDUPLICATIONS = frozenset({"id", "sha1", "root"})


@dataclass(frozen=True, slots=True)
class Case:
    """Conditions on events, and actions for them. Without conditions, it takes every event."""

    match: Fields | None = None
    match_not: tuple[Fields, ...] = ()
    """None of these patterns may match."""
    when: Program | None = None
    actions: tuple[ActionTemplate, ...] = ()
    parallel: bool = False
    """Whether the actions run in parallel; otherwise each starts after the previous one succeeds.
    """
    sampler: Sampler | None = None

    def takes(self, event: Any, document: Document) -> bool:
        """Return whether the event fulfils all conditions."""
        if self.match is not None and not self.match.matches(event):
            return False
        if any(pattern.matches(event) for pattern in self.match_not):
            return False
        return self.when is None or self.when.matches(document)

    def context(self, event: Any) -> dict[str, Any]:
        """Return the variables for the templates of this case."""
        captures: Any = {} if self.match is None else self.match.captures(event)
        return {"message": event, "match": captures}

    def render(
        self, event: Any, *, user_agent: str, trigger: str | None = None
    ) -> tuple[Action, ...]:
        """Return the actions for an event that this case takes. Raises TemplateError."""
        context = self.context(event)
        return tuple(
            template.render(context, user_agent=user_agent, trigger=trigger)
            if isinstance(template, HttpAction)
            else template.render(context)
            for template in self.actions
        )


class LimitUse(NamedTuple):
    """A limiter that a rule uses."""

    type: str
    key: Text


class ListedTitles(NamedTuple):
    """Pages of one domain that a rule ignores."""

    titles: frozenset[str]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. Times are in milliseconds unless a name has another unit."""

    name: str
    topics: tuple[str, ...]
    """Names of topics or streams, without the prefix of a data centre."""
    topic_patterns: tuple[Expression, ...]
    excluded_topics: frozenset[str]
    cases: tuple[Case, ...]
    """The first case that takes an event acts on it."""
    retry_on: Conditions
    ignore: Conditions
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    concurrency: int = 30
    waiting_max: int = 10_000
    """The most events in memory that wait for a time or for another event of their key."""
    order_by: Text | None = None
    """Events for which this template has the same value are acted on one at a time."""
    limits: tuple[LimitUse, ...] = ()
    claim_ttl_s: float | None = None
    root_claim_ttl_s: float | None = None
    discards_canaries: bool = True
    delays: bool = True
    """Whether `delay_until` is obeyed."""
    reenqueue_delay_s: float = 20.0
    blacklist: Mapping[str, ListedTitles] = field(default_factory=dict[str, ListedTitles])
    decode_results: bool = False
    deduplicate: frozenset[str] = DEDUPLICATIONS
    dedupe_window_s: float = 86_400.0
    loop_limit: int = 10
    """How often an event's own stream and URI may be in its chain; 0 disables the check."""

    def choose(self, event: Any, document: Document) -> Case | None:
        """Return the case that takes the event, if any."""
        if not isinstance(event, dict):
            return None
        if self.discards_canaries and meta_of(event).get("domain") == "canary":
            return None
        return next((case for case in self.cases if case.takes(event, document)), None)

    def lists(self, event: Any) -> bool:
        """Return whether the event is about a page that the rule ignores."""
        meta = meta_of(event)
        listed = self.blacklist.get(str(meta.get("domain")))
        uri = meta.get("uri")
        if listed is None or not isinstance(uri, str):
            return False
        decoded = unquote(uri)
        title = decoded.rpartition("/wiki/")[2]
        return (
            decoded in listed.titles
            or title in listed.titles
            or title.replace("_", " ") in listed.titles
            or any(expression.matches(decoded) for expression in listed.expressions)
        )
