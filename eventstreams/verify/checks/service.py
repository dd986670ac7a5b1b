"""What a gateway says about itself."""

from __future__ import annotations

from typing import Any

from eventstreams.verify.check import Check
from eventstreams.verify.target import Target
from eventstreams.verify.verdict import Verdict, failed, passed


async def spec_names(target: Target) -> list[str] | None:
    """Return the streams that the OpenAPI document lists, where clients look for them; None where
    there is no such document. Raises Wrong."""
    document: Any = (await target.ask("GET", f"{target.root}/?spec")).document
    try:
        [first, *_] = document["paths"]["/v2/stream/{streams}"]["get"]["parameters"]
        names = first["schema"]["items"]["enum"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):
        return None


async def _spec(target: Target) -> Verdict:
    names = await spec_names(target)
    if names is None:
        return failed("/?spec has no `enum` of streams in the first parameter of a stream")
    missing = [name for name in target.streams if name not in names]
    if missing:
        return failed(f"/?spec does not list {', '.join(missing)}")
    if names != sorted(names):
        return failed("the names in /?spec are not sorted")
    return passed(f"{len(names)} names")


async def _info(target: Target) -> Verdict:
    answer = await target.ask("GET", f"{target.root}/_info")
    document = answer.document
    missing = [key for key in ("name", "version") if key not in document]
    if answer.head.status != 200 or missing:
        return failed(f"/_info gets {answer.head.status}, without {', '.join(missing)}")
    return passed(f"{document['name']} {document['version']}")


CHECKS = (
    Check(
        "service.spec",
        "`/?spec` lists all streams, sorted, in the first parameter of a stream",
        "The page of EventStreams and client libraries read the names there.",
        _spec,
    ),
    Check(
        "service.info",
        "`/_info` gives name and version",
        "Probes of readiness and load balancers ask for it.",
        _info,
    ),
)
