"""Every check can fail: it detects the gateway with its fault."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from eventstreams.verify.check import Check
from eventstreams.verify.registry import CHECKS
from eventstreams.verify.runner import Result
from tests.verify.examining import QUICK, examine, failures, skipped, target_at
from tests.verify.stub import Stub, serving

PATIENCE = replace(QUICK, events=12, cuts=5)
IN_VAIN = replace(PATIENCE, answer_s=10.0, event_s=4.0, heartbeat_s=4.0, quiet_s=2.0)
"""For the checks that a fault affects: they wait for something that never comes."""
AT_ONCE = 40
"""How many gateways are tested at the same time; they mostly wait."""

FAULTS: dict[str, tuple[str, set[str]]] = {
    "unsorted names in /?spec": ("service.spec", set()),
    "no name in /_info": ("service.info", set()),
    "no charset": (
        "http.content-type",
        {"http.charset-without-accept", "http.negotiation", "http.head"},
    ),
    "no charset without Accept": ("http.charset-without-accept", set()),
    "406": ("http.negotiation", set()),
    "no empty line in NDJSON": ("http.ndjson", set()),
    "a length in place of chunks": ("http.chunked", {"drain.ends"}),
    "may be cached": ("http.cache-control", set()),
    "no Vary": ("http.vary", set()),
    "HEAD hangs": ("http.head", set()),
    "HEAD is refused": ("http.head", set()),
    "no CORS on streams": ("http.cors", {"http.preflight"}),
    "no CORS on errors": ("http.cors-on-errors", set()),
    "no last-event-id in OPTIONS": ("http.preflight", set()),
    "%2C is no comma": ("http.encoded-comma", set()),
    "gzip is not flushed": ("http.compression", set()),
    "404 for an unknown stream": ("errors.unknown-stream", {"errors.order"}),
    "404 page for an unknown stream": ("errors.unknown-stream", {"errors.order"}),
    "nonsense in since is taken": ("errors.bad-since", set()),
    "since is looked at before the streams": ("errors.order", set()),
    "a bad id is taken as none": ("errors.bad-id", set()),
    "another name of an error": ("errors.foreign-topic", set()),
    "POST is taken": ("errors.method", set()),
    "a page in place of 404": ("errors.not-found", set()),
    "another first comment": ("framing.ok", set()),
    "byte order mark": ("framing.line-ends", {"framing.ok"}),
    "CRLF": ("framing.line-ends", {"ids.text"}),
    "no event name": ("framing.layout", set()),
    "no space behind the colon": ("framing.layout", set()),
    "data of several lines": ("framing.layout", set()),
    "a comment within an event": ("framing.layout", set()),
    "the id before the data": ("framing.id-last", set()),
    "data is no JSON": ("framing.data", {"ids.meta"}),
    "raw line separators": ("framing.separators", set()),
    "a line torn over two chunks": ("framing.whole-lines", set()),
    "an event without an id": (
        "ids.every-event",
        {"ids.form", "resume.nothing-lost", "resume.nothing-twice", "resume.header-wins"},
    ),
    "a carriage return in an id": ("ids.text", set()),
    "an id that is not ASCII": ("ids.text", set()),
    "an id that is too long": ("ids.text", set()),
    "ids are no JSON": ("ids.form", set()),
    "only its own partition in an id": ("ids.every-partition", {"resume.nothing-lost"}),
    "the offset of the event itself": (
        "ids.next-offset",
        {"resume.nothing-twice", "resume.header-wins", "gaps.once"},
    ),
    "timestamps in place of offsets": ("ids.offsets", {"resume.nothing-lost"}),
    "-1 for a quiet partition": (
        "ids.quiet-partitions",
        {"resume.nothing-lost", "gaps.once", "live.cursor-moves"},
    ),
    "ids that go back": ("ids.forward", {"resume.nothing-twice", "resume.header-wins"}),
    "order swapped": ("ids.order", {"ids.forward", "resume.nothing-lost"}),
    "no meta.stream": ("ids.meta", set()),
    "resumes one too late": ("resume.nothing-lost", {"resume.while-away"}),
    "resumes one too early": ("resume.nothing-twice", {"resume.header-wins", "gaps.once"}),
    "order swapped across a cut": ("resume.in-order", {"resume.timestamp"}),
    "skips what was posted while away": (
        "resume.while-away",
        {"resume.nothing-lost", "resume.timestamp"},
    ),
    "overlap at the seam": ("resume.seam", {"resume.nothing-twice"}),
    "a hole at the seam": ("resume.seam", set()),
    "since wins over the header": ("resume.header-wins", set()),
    "an empty header is refused": ("resume.empty-header", set()),
    "reads what the id leaves out": ("resume.subset", set()),
    "a timestamp begins behind its event": ("resume.timestamp", set()),
    "since begins at the newest": ("resume.since", set()),
    "only ISO times": ("resume.since-forms", set()),
    "milliseconds replay everything": ("resume.since-milliseconds", set()),
    "a raw plus is refused": ("resume.since-plus", set()),
    "empty since is refused": ("resume.since-empty", set()),
    "silence beyond the end": ("gaps.beyond-end", set()),
    "silence below the oldest": ("gaps.below-oldest", set()),
    "the id of a gap leads into it": ("gaps.once", set()),
    "a gap at every resume": ("gaps.none", {"gaps.once"}),
    "begins behind its first byte": ("live.from-ok", {"http.compression"}),
    "holds events back": (
        "live.prompt",
        {
            *("live.from-ok", "live.cursor-moves", "framing.separators", "http.compression"),
            *("resume.nothing-lost", "resume.seam", "resume.since-milliseconds"),
        },
    ),
    "lost wake-up": ("live.burst", set()),
    "no heartbeat": ("live.heartbeat", set()),
    "a heartbeat that ends an event": ("live.heartbeat-bytes", set()),
    "the filter comes before the position": ("live.cursor-moves", set()),
    "a stop that tears streams": ("drain.ends", set()),
    "a stop within an event": ("drain.whole", set()),
    "no retry at a stop": ("drain.retry", set()),
    "retry as an event": ("drain.retry", set()),
}
"""Each fault, the check that must detect it, and others that it may affect."""


async def _examined(fault: str) -> dict[str, Result]:
    stub = Stub(fault)
    async with serving(stub) as port:
        target = target_at(
            port,
            ["one", "two"],
            patience=PATIENCE,
            post=stub.post,
            template={"meta": {"stream": "one"}},
            drain=stub.stop,
        )
        meant, also = FAULTS.get(fault, ("", set()))

        def on_start(check: Check) -> None:
            target.patience = IN_VAIN if check.name in {meant, *also} else PATIENCE

        return await examine(target, on_start=on_start)


async def _all_examined() -> dict[str, dict[str, Result]]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(fault: str) -> dict[str, Result]:
        async with room:
            return await _examined(fault)

    faults = ["", *FAULTS]
    return dict(zip(faults, await asyncio.gather(*map(one, faults)), strict=True))


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Result]]:
    """The results for the gateway with each fault, and without any."""
    return asyncio.run(_all_examined())


def test_a_correct_gateway_passes_every_check(
    results: dict[str, dict[str, Result]],
) -> None:
    assert failures(results[""]) == {}
    assert skipped(results[""]) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_detected_only_by_its_checks(
    results: dict[str, dict[str, Result]], fault: str
) -> None:
    meant, also = FAULTS[fault]
    failed = failures(results[fault])
    assert meant in failed
    assert set(failed) <= {meant, *also}, failed


def test_every_check_detects_a_fault() -> None:
    assert {meant for meant, _ in FAULTS.values()} == {check.name for check in CHECKS}


def test_every_fault_is_implemented() -> None:
    source = (Path(__file__).parent / "stub.py").read_text()
    for fault in FAULTS:
        assert re.search(rf'has\(\s*(".*" if .* else )?"{re.escape(fault)}"', source), fault
