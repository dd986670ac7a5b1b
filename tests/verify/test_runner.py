"""Runs are bounded, and reports are as documented."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema_rs
import pytest

from eventstreams.verify import report
from eventstreams.verify.check import Check
from eventstreams.verify.registry import CHECKS, UnknownCheck, choose
from eventstreams.verify.runner import Result, run
from eventstreams.verify.target import PostRefused, Target
from eventstreams.verify.verdict import Skipped, Verdict, Wrong, differs, failed, passed
from eventstreams.verify.wire import CannotConnect
from tests.verify.examining import target_at

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()


async def _pass(_: Target) -> Verdict:
    return passed("seen")


async def _differ(_: Target) -> Verdict:
    return differs("seen, in another way")


async def _fail(_: Target) -> Verdict:
    return failed("not seen")


async def _skip(_: Target) -> Verdict:
    raise Skipped("nothing to look at")


async def _wrong(_: Target) -> Verdict:
    raise Wrong("no stream")


async def _for_ever(_: Target) -> Verdict:
    await asyncio.Event().wait()
    raise AssertionError


async def _refused(_: Target) -> Verdict:
    raise PostRefused("no")


async def _cannot_connect(_: Target) -> Verdict:
    raise CannotConnect("no connection")


ALL = (_pass, _differ, _fail, _skip, _wrong)
EXAMPLES = [Check(f"group.{run.__name__}", "Title", "A reason.", run, "Else.") for run in ALL]


async def outcomes(*runs: Check, check_s: float = 60.0, budget_s: float = 60.0) -> list[Result]:
    return await run(target_at(1, ["s"]), runs, check_s=check_s, budget_s=budget_s)


async def test_exceptions_of_checks_become_verdicts() -> None:
    results = await outcomes(*EXAMPLES)
    found = [(result.verdict.outcome, result.verdict.evidence) for result in results]
    assert found == [
        ("pass", "seen"),
        ("differs", "seen, in another way"),
        ("fail", "not seen"),
        ("skipped", "nothing to look at"),
        ("fail", "no stream"),
    ]


async def test_a_check_that_never_ends_fails() -> None:
    stuck = Check("group.stuck", "Title", "A reason.", _for_ever)
    first, second = await outcomes(stuck, EXAMPLES[0], check_s=0.01)
    assert (first.verdict.outcome, second.verdict.outcome) == ("fail", "pass")


async def test_checks_beyond_the_budget_are_skipped() -> None:
    stuck = Check("group.stuck", "Title", "A reason.", _for_ever)
    results = await outcomes(stuck, EXAMPLES[0], check_s=60, budget_s=0.01)
    assert [result.verdict.outcome for result in results] == ["skipped", "skipped"]
    assert "--time" in results[0].verdict.evidence


async def test_a_refusal_of_test_events_ends_the_run() -> None:
    with pytest.raises(PostRefused):
        await outcomes(EXAMPLES[0], Check("group.refused", "Title", "A reason.", _refused))


async def test_an_unreachable_gateway_ends_the_run_at_the_start() -> None:
    unreachable = Check("group.unreachable", "Title", "A reason.", _cannot_connect)
    with pytest.raises(CannotConnect):
        await outcomes(unreachable)
    _, second = await outcomes(EXAMPLES[0], unreachable)
    assert second.verdict.outcome == "fail"


def results() -> list[Result]:
    return asyncio.run(outcomes(*EXAMPLES))


def test_the_document_matches_its_documented_schema() -> None:
    document = report.document(
        results(), url="http://x", streams=["s"], began=datetime.now(UTC), requests=3
    )
    schema = json.loads(PAGE.partition("```json\n")[2].partition("```")[0])
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    assert validator.is_valid(json.loads(json.dumps(document)))
    assert document["summary"] == {"pass": 1, "differs": 1, "fail": 2, "skipped": 1}
    assert not validator.is_valid({**document, "summary": {}})
    assert not validator.is_valid({**document, "more": 1})


def test_the_table_explains_failures() -> None:
    short = list(report.table(results(), width=100, explains=False))
    assert sum("Why: A reason." in line for line in short) == 2
    assert sum("EventStreams: Else." in line for line in short) == 3
    assert short[-1] == "1 passed, 1 differ from EventStreams deliberately, 2 failed, 1 skipped"
    full = list(report.table(results(), width=100, explains=True))
    assert sum("Why: A reason." in line for line in full) == 5


def test_checks_are_selected_by_name_or_group() -> None:
    assert choose([]) == CHECKS
    chosen = [check.name for check in choose(["resume.seam", "service"])]
    assert chosen == ["service.spec", "service.info", "resume.seam"]
    with pytest.raises(UnknownCheck, match="'nothing' is not a check; the groups are service,"):
        choose(["nothing"])


def test_checks_have_unique_names_and_reasons() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.why.endswith("."), check.name
        assert not check.title.endswith("."), check.name
        assert check.upstream == "" or check.upstream.endswith("."), check.name


def test_the_documentation_lists_every_check() -> None:
    """`scripts/docs` writes the list."""
    listed = PAGE.partition("<!-- checks -->\n")[2].partition("<!-- end of checks -->")[0]
    assert listed == report.markdown(CHECKS)
