"""The bytes of a stream: its beginning, its lines, its blocks."""

from __future__ import annotations

from collections.abc import Callable

from eventstreams.verify.blocks import (
    SEPARATORS,
    Block,
    blocks_of,
    data_problem,
    id_order_problem,
    layout_problem,
    line_end_problem,
    split_line_problem,
)
from eventstreams.verify.check import Check
from eventstreams.verify.observations import live, opening, sample
from eventstreams.verify.reading import OK
from eventstreams.verify.target import Target, post_until_seen
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, judge, passed, shown

_AWKWARD = "line\u2028separator, paragraph\u2029separator, next\u0085line, \r\n and \r and \n"


async def _begins_with_ok(target: Target) -> Verdict:
    seen = await opening(target)
    if not seen.first.startswith(OK):
        return failed(f"the first bytes are {shown(seen.first)}")
    return passed(f"{shown(seen.first)} after {seen.after_s:.2f} s")


async def _line_ends(target: Target) -> Verdict:
    seen = await sample(target)
    return judge(line_end_problem(seen.body), passed(f"{len(seen.body):,} bytes examined"))


async def _layout(target: Target) -> Verdict:
    return await _of_each_block(target, layout_problem)


async def _data(target: Target) -> Verdict:
    return await _of_each_block(target, data_problem)


async def _of_each_block(target: Target, problem_of: Callable[[Block], str | None]) -> Verdict:
    blocks = (await sample(target)).blocks
    problems = [problem for block in blocks if (problem := problem_of(block)) is not None]
    if problems:
        return failed(f"{problems[0]} ({len(problems)} of {len(blocks)} events)")
    return passed(f"{len(blocks)} events examined")


async def _id_last(target: Target) -> Verdict:
    verdict = await _of_each_block(target, id_order_problem)
    return differs(verdict.evidence) if verdict.outcome == "pass" else verdict


async def _separators(target: Target) -> Verdict:
    async with target.stream() as reading:
        await target.begun(reading)
        posted = await post_until_seen(target, reading, test=_AWKWARD)
        if posted is None:
            return failed("an event whose text contains line separators does not arrive")
        blocks = [block for block in blocks_of(bytes(reading.body)) if block.is_message]
        for block in blocks:
            problem = data_problem(block)
            if problem is not None:
                return failed(problem)
        [event] = [event for event in reading.messages if event.meta.get("id") == posted]
        text = event.document.get("test")
        if text != _AWKWARD:
            return failed(f"{shown(_AWKWARD)} became {shown(str(text))}")
        return differs(f"{', '.join(SEPARATORS.values())}, CR and LF are escaped in the data")


async def _whole_lines(target: Target) -> Verdict:
    """Examine events that arrive one at a time, because proxies split long responses."""
    seen = await live(target)
    if not any(single is not None for single in seen.singles):
        raise Skipped("no event arrived while a stream was open")
    problem = split_line_problem(seen.body, seen.chunk_ends)
    if problem is not None:
        return failed(problem)
    blocks = len([block for block in blocks_of(seen.body) if block.is_event])
    if any(not seen.body[:end].endswith(b"\n\n") for end in seen.chunk_ends[:-1]):
        return passed(f"each line of {blocks} events is in one HTTP chunk")
    return differs(f"each of {blocks} events is in one HTTP chunk")


CHECKS = (
    Check(
        "framing.ok",
        "A stream begins at once with `:ok` and a blank line, before any event",
        "Clients and proxies see that the stream works before the first event, and the blank line "
        "ends a frame that a disconnect has left incomplete in a careless client.",
        _begins_with_ok,
    ),
    Check(
        "framing.line-ends",
        "Lines end in LF, and there is no byte order mark",
        "Some clients split only at LF and keep a CR in the data; one fails at a byte order mark.",
        _line_ends,
    ),
    Check(
        "framing.layout",
        "An event has one `event: message` line and one `data:` line, with one space after the "
        "colon",
        "`onmessage` and many libraries ignore events with another name, and scripts search for "
        "lines that begin with `data: `.",
        _layout,
    ),
    Check(
        "framing.id-last",
        "The `id:` line comes after the data",
        "Several clients store an id when they read its line. If the connection breaks between the "
        "id and the data, they resume after an event that they never received.",
        _id_last,
        upstream="The id comes before the data.",
    ),
    Check(
        "framing.data",
        "Data is JSON in UTF-8, without raw U+2028, U+2029 and U+0085",
        "Clients that split text with Python's `splitlines` cut an event at these characters.",
        _data,
    ),
    Check(
        "framing.separators",
        "Line separators in the text of an event are escaped, and the text arrives unchanged",
        "Any user can put them into a title or comment, and would split the event for clients that "
        "take them for line ends.",
        _separators,
        upstream="U+2028, U+2029 and U+0085 are sent unescaped.",
    ),
    Check(
        "framing.whole-lines",
        "No line is split between two HTTP chunks",
        "sseclient reads chunk by chunk and corrupts an event whose line is split.",
        _whole_lines,
        upstream="Each line of an event is an HTTP chunk.",
    ),
)
