"""Rules as Wikimedia's wikis need them: re-render, then purge; transclusions; skipped pages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.propagation.stage import event, running_file

pytestmark = pytest.mark.anyio

EDITS = "dc1.mediawiki.revision-create"


def edit(title: str = "Some_Page", domain: str = "en.wikipedia.org", **more: Any) -> Any:
    made = event("mediawiki.revision-create", page_title=title, page_namespace=0, rev_id=42, **more)
    made["meta"] |= {"domain": domain, "uri": f"https://{domain}/wiki/{title}"}
    return made


async def test_an_edit_re_renders_the_page_and_then_purges_it() -> None:
    async with running_file("wikimedia.yaml") as stage:
        stage.target.hold()
        await stage.put(EDITS, edit("A/B c"))
        await stage.target.received(1)
        assert len(stage.target.calls) == 1, "the purge waits for the rendering"
        stage.target.release()
        await stage.idle()
        render, purge = stage.target.calls
        assert render.method == "GET"
        # `{{…}}` inserts the title as it is.
        assert render.path == "/en.wikipedia.org/v1/page/html/A/B%20c/42?redirect=false"
        assert render.headers["if-unmodified-since"] == "Tue, 14 Nov 2023 22:13:20 +0000"
        assert render.headers["cache-control"] == "no-cache"
        assert purge.method == "POST"
        assert purge.json == [
            {"meta": {"uri": "//en.wikipedia.org/api/rest_v1/page/html/A%2FB%20c"}}
        ]


async def test_no_purge_follows_a_failed_rendering() -> None:
    async with running_file("wikimedia.yaml") as stage:
        stage.target.answers(500, 200)
        await stage.act(EDITS, edit())
        assert len(stage.target.calls) == 1
        await stage.advance(500)
        assert [call.method for call in stage.target.calls] == ["GET", "GET", "POST"]


@pytest.mark.parametrize(
    "skipped",
    [
        {"page_namespace": 1},
        {"domain": "de.wikipedia.org"},
        {"domain": "commons.wikipedia.org"},
        {"domain": "www.wikidata.org"},
        {"domain": "canary"},
    ],
)
async def test_other_namespaces_and_hosts_are_skipped(skipped: dict[str, Any]) -> None:
    async with running_file("wikimedia.yaml") as stage:
        domain = skipped.pop("domain", "en.wikipedia.org")
        await stage.act(EDITS, edit(domain=domain) | skipped)
        assert stage.target.calls == []


async def test_a_missing_field_makes_an_error_and_no_retry() -> None:
    async with running_file("wikimedia.yaml") as stage:
        broken = edit()
        del broken["meta"]["dt"]
        await stage.act(EDITS, broken, edit("Next"))
        [error] = await stage.documents("dc1.changeprop.error")
        assert error["error_type"] == "TemplateError"
        assert len(stage.target.calls) == 2, "the next event is acted on"


async def test_an_edit_of_a_file_re_renders_the_pages_that_use_it() -> None:
    async with running_file("wikimedia.yaml") as stage:
        file = edit("File:X.jpg", "commons.wikimedia.org")
        await stage.act(EDITS, file)
        [call] = stage.target.calls
        uri = "https://commons.wikimedia.org/wiki/File:X.jpg"
        assert call.path == "/transclusions"
        assert call.json == {
            "uri": uri,
            "chain": f"req:request-1,mediawiki.revision-create:{uri}",
        }
        assert call.headers["x-triggered-by"] == (
            f"req:request-1,mediawiki.revision-create:{uri},"
            f"change-prop.transcludes.resource-change:{uri}"
        )


async def test_actions_in_parallel_start_at_once() -> None:
    async with running_file("wikimedia.yaml") as stage:
        stage.target.hold()
        made = event("resource_change", tags=["purge", "null_edit", "rerender"])
        await stage.put("dc1.resource_change", made)
        await stage.target.received(2)
        assert {call.path for call in stage.target.calls} == {"/one", "/two"}
        stage.target.release()
        await stage.idle()


async def test_events_that_lack_a_listed_tag_are_ignored() -> None:
    async with running_file("wikimedia.yaml") as stage:
        for tags in ([], ["null_edit"], ["rerender"], "null_edit", None):
            await stage.act("dc1.resource_change", event("resource_change", tags=tags))
        assert stage.target.calls == []
