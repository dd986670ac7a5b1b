"""How streams end when the gateway stops. These checks run last."""

from __future__ import annotations

import re

from eventstreams.verify.blocks import blocks_of
from eventstreams.verify.check import Check
from eventstreams.verify.observations import Drained, drained
from eventstreams.verify.target import Target
from eventstreams.verify.verdict import Skipped, Verdict, differs, failed, shown

_RETRY = re.compile(rb"retry: \d{1,6}\n")
_RETRY_WITHIN = re.compile(rb"^retry:", re.MULTILINE)
_TAIL_BYTES = 200


def _how(seen: Drained) -> str:
    return "during a stop," if seen.on_purpose else "by itself,"


async def _ends(target: Target) -> Verdict:
    seen = await drained(target)
    ending = seen.reading.ending
    if ending is None:
        return failed(f"the stream did not end within {target.patience.drain_s:g} s")
    if ending == "torn":
        return failed(f"{_how(seen)} the stream ended without its last chunk")
    return differs(f"{_how(seen)} the stream ended with its last chunk")


async def _whole(target: Target) -> Verdict:
    seen = await drained(target)
    body = bytes(seen.reading.body)
    blocks = blocks_of(body + b"\n\n")
    unfinished = blocks[len(blocks_of(body)) :]
    left = [b for b in unfinished if any(not line.startswith(b"retry:") for line in b.lines)]
    if left or (body and not body.endswith(b"\n")):
        return failed(f"the last bytes are {shown(body[-_TAIL_BYTES:])}")
    return differs("the stream ended between two events")


async def _retry(target: Target) -> Verdict:
    seen = await drained(target)
    if seen.reading.ending != "clean":
        raise Skipped("the stream did not end properly")
    body = bytes(seen.reading.body)
    last = body[body.rstrip(b"\n").rfind(b"\n") + 1 :]
    if not _RETRY_WITHIN.search(body[-_TAIL_BYTES:]):
        return failed(f"no `retry:` line at the end: {shown(body[-_TAIL_BYTES:])}")
    if not _RETRY.fullmatch(last):
        return failed(f"the last line is not `retry:`: {shown(last)}")
    return differs(shown(last))


CHECKS = (
    Check(
        "drain.ends",
        "A stop ends each stream properly",
        "A client cannot distinguish a truncated response from a broken network, and some wait "
        "long before they reconnect.",
        _ends,
        upstream="Streams are cut.",
    ),
    Check(
        "drain.whole",
        "A stop ends each stream between two events",
        "Some clients process half an event.",
        _whole,
        upstream="Streams are cut.",
    ),
    Check(
        "drain.retry",
        "The last line of a stopped stream is `retry:`, without a blank line after it",
        "Clients reconnect spread over several seconds, not all at once. With a blank line, "
        "several clients would process an empty event.",
        _retry,
        upstream="There is no `retry:`.",
    ),
)
