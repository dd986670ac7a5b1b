"""Shows what rules would do, for dry runs over a log and for testing a rule file on events."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from eventstreams.filters.document import Document, Origin
from eventstreams.log.base import Log
from eventstreams.model.event import Event
from eventstreams.model.gap_marker import is_gap_marker
from eventstreams.propagation.actions import Action, Produce, Repost, Request
from eventstreams.propagation.events import read_json
from eventstreams.propagation.functions import TemplateError
from eventstreams.propagation.matching import SearchTooLong
from eventstreams.propagation.rule import Rule
from eventstreams.propagation.rule_file import RuleFile
from eventstreams.propagation.service import Topics

_READ_BYTES = 1 << 20


def preview(rule: Rule, value: bytes, origin: Origin, user_agent: str) -> dict[str, Any] | None:
    """Return what a rule would do for an event, as a JSON object; None if it does not take it."""
    try:
        event = read_json(value)
    except ValueError as error:
        return {"rule": rule.name, "error": f"the event is not JSON: {error}"}
    shown: dict[str, Any] = {"rule": rule.name}
    try:
        case = rule.choose(event, Document(origin, value))
        if case is None:
            return None
        shown["case"] = rule.cases.index(case)
        if case.sampler is not None and not case.sampler.accepts(case.context(event)):
            return shown | {"skipped": "sampled_out"}
        if rule.lists(event):
            return shown | {"skipped": "blacklisted"}
        actions = case.render(event, user_agent=user_agent)
    except (TemplateError, SearchTooLong) as error:
        return shown | {"error": str(error)}
    return shown | {"actions": [_shown(action) for action in actions]}


def _shown(action: Action) -> Mapping[str, Any]:
    match action:
        case Request():
            shown: dict[str, Any] = {
                "method": action.method,
                "uri": action.uri,
                "headers": dict(action.headers),
            }
            if action.body is not None:
                shown["body"] = _text(action.body)
            return shown
        case Produce():
            return {"produce": list(action.events)}
        case Repost():
            return {
                "repost_to": action.stream,
                "partition": action.partition,
                "event": _text(action.event),
            }


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()


async def dry_run(
    *, loaded: RuleFile, topics: Topics, log: Log, since_ms: int
) -> AsyncGenerator[dict[str, Any]]:
    """Yield what the rules would do for the events from a time until now. Changes nothing.

    Raises LogError.
    """
    for rule in loaded.rules:
        found = await log.partitions(topics.subscription(rule).topics)
        partitions = [each for several in found.values() for each in several]
        ends = {p: each.end for p, each in (await log.bounds(partitions)).items()}
        starts = await log.offset_at(dict.fromkeys(partitions, since_ms))
        for partition in partitions:
            offset = starts[partition]
            while offset is not None and offset < ends[partition]:
                _, events, following, *_ = await log.read(partition, offset, _READ_BYTES)
                for event in events:
                    shown = _of_event(rule, event, loaded.user_agent)
                    if event.offset < ends[partition] and shown is not None:
                        yield shown
                offset = following if following > offset else None


def _of_event(rule: Rule, event: Event, user_agent: str) -> dict[str, Any] | None:
    if event.value is None or is_gap_marker(event):
        return None
    origin = Origin(*event.partition, event.offset, event.timestamp_ms)
    shown = preview(rule, event.value, origin, user_agent)
    where = {"topic": event.partition.topic, "partition": event.partition.number}
    return None if shown is None else {**where, "offset": event.offset, **shown}
