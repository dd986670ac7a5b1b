"""Pages, redirects, and the description of the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import eventstreams
from eventstreams.config.settings import AccessSettings, HttpSettings
from eventstreams.errors import ConfigError
from eventstreams.web.pages import swagger_routes
from tests.support.gateway import Site, filled, stream_of

pytestmark = pytest.mark.anyio


async def test_robots_are_excluded(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        answer = await gateway.get("/robots.txt")
    assert answer.status == 200
    assert (answer.head.get("content-type") or "").startswith("text/plain")
    assert answer.body == b"User-agent: *\nDisallow: /\n"


async def test_info_has_name_version_description_and_homepage(embedded: Site) -> None:
    home = HttpSettings(homepage="https://example.org/")
    async with embedded.gateway({"s": ["t"]}, http=home) as gateway:
        for path in ("/_info", "/_info/"):
            info = (await gateway.get(path)).json()
            assert list(info) == ["name", "version", "description", "home"]
            assert info["version"] == eventstreams.__version__
            assert info["home"] == "https://example.org/"
        assert (await gateway.get("/_info/name")).json() == {"name": "eventstreams"}
        version = (await gateway.get("/_info/version")).json()
        assert version == {"version": eventstreams.__version__}
        for method in ("GET", "HEAD", "POST"):
            answer = await gateway.ask(method, "/_info/home")
            assert (answer.status, answer.head.get("location")) == (301, "https://example.org/")
        assert (await gateway.get("/_info/nothing")).status == 404


async def test_without_a_homepage_its_path_is_404(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        answer = await gateway.get("/_info/home")
        assert answer.status == 404
        assert (answer.head.get("content-type") or "").startswith("text/plain")


async def test_old_paths_redirect(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        moved = {"/": (303, "/v2/ui"), "/v2/ui": (301, "/v2/ui/"), "/rc": (301, "/?doc")}
        for path, expected in moved.items():
            answer = await gateway.get(path)
            assert (answer.status, answer.head.get("location")) == expected


async def test_pages_and_their_assets_are_served(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        for path in ("/v2/ui/", "/?doc", "/?doc=1"):
            answer = await gateway.get(path)
            assert answer.status == 200
            assert (answer.head.get("content-type") or "").startswith("text/html")
        page = (await gateway.get("/v2/ui/")).body.decode()
        for asset in ("app.js", "page.css"):
            assert asset in page
            assert (await gateway.get(f"/v2/ui/{asset}")).status == 200
        for path in ("/v2/ui/../../pyproject.toml", "/v2/ui/%2e%2e/pyproject.toml"):
            assert (await gateway.get(path)).status == 404


async def test_required_scopes_are_listed(embedded: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    closed = stream_of("closed", ["u"])._replace(scope="read:closed")
    async with embedded.gateway({"s": ["t"], "closed": closed}, access=access) as gateway:
        listed = (await gateway.get("/v2/streams")).json()["streams"]
        assert "scope" not in listed["s"]
        assert listed["closed"]["scope"] == "read:closed"
        spec = (await gateway.get("/?spec")).json()
        OpenAPIV31SpecValidator(spec).validate()
        assert "security" not in spec["paths"]["/v2/stream/s"]["get"]
        operation = spec["paths"]["/v2/stream/closed"]["get"]
        assert {"token", "ticket"} == {name for way in operation["security"] for name in way}
        assert "read:closed" in operation["description"]
        assert "post" in spec["paths"]["/v2/ticket"]


NOWHERE = ["/v2/stream", "/v1/stream/s", "/v2/schema/a", "/_test/events", "/v1/_test/events", "/x"]


async def test_unknown_paths_get_the_html_page(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        for path in NOWHERE:
            answer = await gateway.get(path)
            assert answer.status == 404
            assert answer.head.get("content-type") == "text/html; charset=utf-8"
            assert f"<pre>Cannot GET {path}</pre>".encode() in answer.body
            assert b'href="/?doc"' in answer.body
        assert (await gateway.get("/?doc")).status == 200
        posted = await gateway.ask("POST", "/v2/streams")
        assert posted.status == 404
        assert b"<pre>Cannot POST /v2/streams</pre>" in posted.body


async def test_the_404_page_escapes_what_it_quotes(embedded: Site) -> None:
    async with embedded.gateway({"s": ["t"]}) as gateway:
        for path in ("/<script>alert(1)</script>", "/%3Cscript%3E&amp;'%22", "/v2/stream/<b>/x"):
            answer = await gateway.get(path)
            assert answer.status == 404
            assert b"<script>" not in answer.body
            assert b"<b>" not in answer.body
            assert b'"' not in answer.body.split(b"<pre>")[1].split(b"</pre>")[0]


async def test_the_catalogue_is_served_as_json(embedded: Site) -> None:
    streams = {"edits": stream_of("edits", ["a", "b"], allowed=["c"], aliases=("e",))}
    async with embedded.gateway(streams) as gateway:
        answer = await gateway.get("/v2/streams")
    assert (answer.head.get("content-type") or "").startswith("application/json")
    assert answer.json() == {
        "streams": {
            "edits": {
                "stream": "edits",
                "topics": ["a", "b"],
                "topics_allowed": ["a", "b", "c"],
                "stream_aliases": ["e"],
                "schema_title": "test/event",
                "description": "Of edits.",
            }
        }
    }


async def test_fields_to_display_are_listed_where_a_stream_declares_them(embedded: Site) -> None:
    chosen = stream_of("s", ["t"])._replace(display_fields=("user.name", "n"))
    async with embedded.gateway({"s": chosen, "u": ["u"]}) as gateway:
        listed = (await gateway.get("/v2/streams")).json()["streams"]
    assert listed["s"]["display_fields"] == ["user.name", "n"]
    assert "display_fields" not in listed["u"]


async def test_activity_shows_the_newest_record_of_public_streams(
    embedded: Site, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    access = AccessSettings(hs256_secret_file=str(tmp_path / "secret"))
    topic = await filled(embedded, count=3)
    closed = stream_of("closed", ["u"])._replace(scope="read:closed")
    streams = {"s": stream_of("s", [topic]), "quiet": stream_of("quiet", ["t"]), "closed": closed}
    async with embedded.gateway(streams, access=access) as gateway:
        await gateway.parts.hub.reachable.wait()
        answer = (await gateway.get("/v2/streams/activity")).json()
    assert answer["step_seconds"] == 10
    assert set(answer["streams"]) == {"s", "quiet"}
    assert answer["streams"]["s"]["newest"] == "2023-11-14T22:13:22.000Z"
    assert answer["streams"]["quiet"] == {"newest": None, "events": []}


async def test_the_spec_is_openapi_3_and_lists_all_names_where_clients_read_them(
    embedded: Site,
) -> None:
    streams = {"b": stream_of("b", ["t"], aliases=("z", "a")), "c": stream_of("c", ["t"])}
    async with embedded.gateway(streams) as gateway:
        answer = await gateway.get("/?spec")
        again = await gateway.get("/?doc=&spec=yes")
    assert (answer.head.get("content-type") or "").startswith("application/json")
    assert again.body == answer.body
    spec = answer.json()
    OpenAPIV31SpecValidator(spec).validate()
    assert spec["openapi"] == "3.1.0"
    assert spec["info"]["version"] == eventstreams.__version__
    parameters = spec["paths"]["/v2/stream/{streams}"]["get"]["parameters"]
    assert parameters[0]["schema"]["items"]["enum"] == ["a", "b", "c", "z"]
    assert [(p["name"], p["in"]) for p in parameters[:3]] == [
        ("streams", "path"),
        ("Last-Event-ID", "header"),
        ("since", "query"),
    ]
    for name in ("a", "b", "c", "z"):
        one = spec["paths"][f"/v2/stream/{name}"]["get"]
        assert one["summary"] == f"{name} events"
        assert "Schema title: test/event" in one["description"]
        assert "path" not in {parameter["in"] for parameter in one["parameters"]}
    alias = spec["paths"]["/v2/stream/a"]["get"]["description"]
    assert "(NOTE: This stream is an alias of b)" in alias
    operations = [operation for path in spec["paths"].values() for operation in path.values()]
    assert all(operation["x-monitor"] is False for operation in operations)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"The package offapi, .* is not installed"):
        swagger_routes()
