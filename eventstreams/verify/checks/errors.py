"""Refusals before a stream begins, in the two shapes of EventStreams."""

from __future__ import annotations

from eventstreams.verify.check import Check
from eventstreams.verify.target import SSE, STREAM_PATH, Answer, Target
from eventstreams.verify.verdict import Verdict, differs, failed, judge, passed, shown

_UNKNOWN = "verify.no-such-stream"
_PROBLEM_KEYS = ("status", "type", "title", "detail", "method", "uri")
_ASSIGNMENT_KEYS = ("message", "origin", "name")
_BAD_IDS = ('"""{nope', "[]", "{}", '[{"partition":0,"offset":0}]', '[{"topic":"t","partition":0}]')


def _problem(answer: Answer, status: int, type_: str) -> str | None:
    """Return what is wrong with a response that should be a problem document."""
    if answer.head.status != status:
        return f"{answer.head.status} instead of {status}: {shown(answer.body)}"
    content_type = answer.head.get("content-type") or ""
    if not content_type.startswith("application/json"):
        return f"content-type: {content_type or 'none'}"
    document = answer.document
    missing = [key for key in _PROBLEM_KEYS if key not in document]
    if missing:
        return f"the body lacks {', '.join(missing)}: {shown(answer.body)}"
    if (document["type"], document["status"]) != (type_, status):
        return f"type {document['type']!r} instead of {type_!r}: {shown(answer.body)}"
    return None


async def _unknown_stream(target: Target) -> Verdict:
    answer = await target.ask("GET", target.path(f"{target.streams[0]},{_UNKNOWN}"), SSE)
    problem = _problem(answer, 400, "not_found")
    if problem is None and _UNKNOWN not in str(answer.document["detail"]):
        problem = f"the detail does not name the stream: {shown(answer.body)}"
    return judge(problem, passed(shown(answer.body)))


async def _bad_since(target: Target) -> Verdict:
    answer = await target.ask("GET", target.path(query="since=garbage"), SSE)
    return judge(_problem(answer, 400, "invalid_timestamp"), passed(shown(answer.body)))


async def _order(target: Target) -> Verdict:
    path = target.path(_UNKNOWN, "since=garbage")
    answer = await target.ask("GET", path, {**SSE, "Last-Event-ID": "nonsense"})
    return judge(_problem(answer, 400, "not_found"), passed("the unknown stream is refused first"))


def _assignment_problem(answer: Answer, status: int, name: str) -> str | None:
    """Return what is wrong with a response that should be an error in KafkaSSE's format."""
    if answer.head.status != status:
        return f"{answer.head.status} instead of {status}: {shown(answer.body)}"
    missing = [key for key in _ASSIGNMENT_KEYS if key not in answer.document]
    if missing:
        return f"the body lacks {', '.join(missing)}: {shown(answer.body)}"
    if answer.document["name"] != name:
        return f"name {answer.document['name']!r} instead of {name!r}"
    return None


async def _bad_id(target: Target) -> Verdict:
    for text in _BAD_IDS:
        answer = await target.ask("GET", target.path(), {**SSE, "Last-Event-ID": text})
        problem = _assignment_problem(answer, 400, "InvalidAssignmentError")
        if problem is not None:
            return failed(f"Last-Event-ID: {text}: {problem}")
    return passed(f"{len(_BAD_IDS)} invalid ids are refused with 400")


async def _foreign_topic(target: Target) -> Verdict:
    text = '[{"topic":"verify.no-such-topic","partition":0,"offset":0}]'
    answer = await target.ask("GET", target.path(), {**SSE, "Last-Event-ID": text})
    problem = _assignment_problem(answer, 404, "TopicNotAvailableError")
    if problem is None and not isinstance(answer.document.get("availableTopics"), list):
        problem = f"the body has no list of availableTopics: {shown(answer.body)}"
    return judge(problem, passed(shown(answer.body)))


async def _method(target: Target) -> Verdict:
    answer = await target.ask("POST", target.path(), SSE)
    if answer.head.status not in (404, 405):
        return failed(f"POST gets {answer.head.status}")
    return passed(f"POST gets {answer.head.status}")


async def _not_found(target: Target) -> Verdict:
    for path in (f"{target.root}{STREAM_PATH}", f"{target.root}/v2/verify-no-such-page"):
        answer = await target.ask("GET", path, SSE)
        type_ = answer.head.get("content-type") or "none"
        if answer.head.status != 404:
            return failed(f"{path} gets {answer.head.status}")
        if type_.startswith("text/event-stream"):
            return failed(f"{path} gets 404 as {type_}")
        if not type_.startswith("text/html"):
            return differs(f"{path} gets 404 as {type_}")
    return passed("404 as a page")


CHECKS = (
    Check(
        "errors.unknown-stream",
        "An unknown stream is answered with 400, `not_found`, and a JSON problem that names it",
        "Clients of EventStreams depend on this status and these fields.",
        _unknown_stream,
    ),
    Check(
        "errors.bad-since",
        "An invalid `since` is answered with 400 and `invalid_timestamp`",
        "A stream that begins somewhere else loses events silently.",
        _bad_since,
    ),
    Check(
        "errors.order",
        "An unknown stream is refused before `since` and `Last-Event-ID` are checked",
        "Clients get the same error for the same mistake as from EventStreams.",
        _order,
    ),
    Check(
        "errors.bad-id",
        "An invalid id is answered with 400 and an `InvalidAssignmentError`",
        "A stream that begins somewhere else loses events silently.",
        _bad_id,
    ),
    Check(
        "errors.foreign-topic",
        "An id with a topic of another stream is answered with 404 and a "
        "`TopicNotAvailableError` that lists the topics",
        "An id must not give access to topics that were not requested, and the list shows the "
        "mistake.",
        _foreign_topic,
    ),
    Check(
        "errors.method",
        "POST to a stream is answered with 404 or 405",
        "A form or a script must not hold a stream open.",
        _method,
    ),
    Check(
        "errors.not-found",
        "A path that does not exist is answered with 404",
        "An EventSource would take another response for a failed stream, and retry forever.",
        _not_found,
    ),
)
