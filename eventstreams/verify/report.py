"""Formats results as a table for people and as a JSON document for programs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from eventstreams.verify.check import Check
from eventstreams.verify.runner import Result
from eventstreams.verify.verdict import OUTCOMES

VERSION = 1
"""The version of the document. Adding a field does not change it."""
_SYMBOLS = {"pass": "pass", "differs": "differs", "fail": "FAIL", "skipped": "skipped"}
_INDENT = " " * 10


def document(
    results: Sequence[Result], *, url: str, streams: Sequence[str], began: datetime, requests: int
) -> dict[str, Any]:
    """Return the document that `--json` prints; docs/verify.md has its JSON Schema."""
    return {
        "version": VERSION,
        "url": url,
        "streams": list(streams),
        "began": began.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": round(sum(result.seconds for result in results), 3),
        "requests": requests,
        "summary": _counts(results),
        "checks": [_as_object(result) for result in results],
    }


def _counts(results: Sequence[Result]) -> dict[str, int]:
    counted = Counter(result.verdict.outcome for result in results)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def _as_object(result: Result) -> dict[str, Any]:
    check, verdict = result.check, result.verdict
    return {
        "name": check.name,
        "group": check.group,
        "title": check.title,
        "why": check.why,
        "upstream": check.upstream or None,
        "outcome": verdict.outcome,
        "evidence": verdict.evidence,
        "seconds": round(result.seconds, 3),
    }


def table(results: Sequence[Result], *, width: int, explains: bool) -> Iterator[str]:
    """Yield a line for each check, with its evidence; for failures, also with the reason for the
    check. `explains` adds the reason to all.
    """
    names = max((len(result.check.name) for result in results), default=0)
    group = ""
    for result in results:
        check, verdict = result.check, result.verdict
        if check.group != group:
            if group:
                yield ""
            group = check.group
        mark = _SYMBOLS[verdict.outcome]
        yield f"{mark:<8}  {check.name:<{names}}  {check.title}"
        yield from _wrapped(verdict.evidence, width)
        is_bad = verdict.outcome == "fail"
        if explains or is_bad:
            yield from _wrapped(f"Why: {check.why}", width)
        if check.upstream and (explains or is_bad or verdict.outcome == "differs"):
            yield from _wrapped(f"EventStreams: {check.upstream}", width)
    yield ""
    counts = _counts(results)
    yield (
        f"{counts['pass']} passed, {counts['differs']} differ from EventStreams deliberately, "
        f"{counts['fail']} failed, {counts['skipped']} skipped"
    )


def _wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a paragraph, indented below the name of a check."""
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT + "  ",
        break_on_hyphens=False,
    )


def markdown(checks: Sequence[Check]) -> str:
    """Return the list of checks in docs/verify.md."""
    lines: list[str] = []
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines += [f"### {group}", "", "| Check | Expected | Why |", "|---|---|---|"]
        why = check.why + (f" *EventStreams: {check.upstream}*" if check.upstream else "")
        lines.append(f"| `{check.name}` | {check.title} | {why} |")
        following = checks[checks.index(check) + 1 :]
        if not following or following[0].group != group:
            lines.append("")
    return "\n".join(lines)
