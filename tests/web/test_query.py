"""The rules for query parameters, which are the same on every route."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.errors import InvalidParameter
from eventstreams.model.nearest import nearest
from eventstreams.web.query import Query
from tests.support.gateway import Site
from tests.support.intake import TEST, event, place

NAMES = st.sampled_from(["a", "b", "ü", "c d"])
VALUES = st.sampled_from(["", " ", "x", "1", "ü&=", "%"])


def query(text: str) -> Query:
    return Query({"query_string": text.encode()})


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_a_blank_value_is_absent_and_a_repeated_one_is_refused(
    pairs: list[tuple[str, str]],
) -> None:
    asked = query(urlencode(pairs))
    assert asked.pairs == pairs
    for name in {name for name, _ in pairs}:
        values = [value for other, value in pairs if other == name and value.strip()]
        assert asked.all(name) == values
        if len(values) > 1:
            with pytest.raises(InvalidParameter, match=f"{name} is given more than once"):
                asked.one(name)
        else:
            assert asked.one(name) == (values[0] if values else None)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "1e3", "x", "1000", "\u0661"])
def test_a_number_out_of_its_bounds_is_refused(text: str) -> None:
    asked = query(urlencode({"limit": text}))
    with pytest.raises(InvalidParameter) as caught:
        asked.whole("limit", "events", least=1, digits_max=3)
    assert (
        str(caught.value)
        == f"limit={text} is not a number of events: use a whole number of at least 1"
    )


def test_a_number_within_its_bounds_is_taken() -> None:
    numbers = {text: query(f"n={text}").whole("n", "x", least=0, digits_max=3) for text in "019"}
    assert numbers == {"0": 0, "1": 1, "9": 9}
    assert query("n=%20999+").whole("n", "x", least=0, digits_max=3) == 999
    assert query("n=").whole("n", "x", least=0, digits_max=3) is None


@pytest.mark.anyio
async def test_every_path_refuses_a_parameter_that_is_repeated(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for target in (
            "/v2/cursor?id=x&id=y",
            "/v1/stream-configs?constraints=a%3Db&constraints=a%3Dc",
            "/v1/stream-configs?streams=a&streams=b",
            f"/v2/stream/{TEST}?limit=1&limit=2",
            f"/v2/explain?streams={TEST}&limit=1&limit=2",
        ):
            refused = await here.http.get(target)
            assert (refused.status_code, refused.json()["type"]) == (400, "invalid_parameter")
        for name in ("hasty", "stream", "schema_uri"):
            repeated = f"/v1/events?{name}=true&{name}=true"
            refused = await here.http.post(repeated, json=event())
            assert (refused.status_code, refused.json()["type"]) == (400, "invalid_parameter")
        assert await here.documents(TEST) == []


MISTAKES = {
    "/v2/stream/s?sinse=-15m": ("sinse", "since"),
    "/v2/stream/s?limit=1&Filter=true": ("Filter", "filter"),
    "/v2/explain?stream=s": ("stream", "streams"),
    "/v2/cursor?ids=x": ("ids", "id"),
    "/v1/stream-configs?constraint=a%3Db": ("constraint", "constraints"),
}


@pytest.mark.anyio
async def test_an_unknown_parameter_is_refused_with_the_nearest_name(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for target, (wrong, right) in MISTAKES.items():
            refused = await gateway.get(target)
            assert (refused.status, refused.json()["type"]) == (400, "invalid_parameter")
            assert f"{wrong!r}; did you mean {right}?" in refused.json()["detail"]
        far = (await gateway.get("/v2/stream/s?zzz=1")).json()["detail"]
        assert "'zzz'; it takes since, until, limit" in far
        none = (await gateway.get("/v2/limits?zzz=1")).json()["detail"]
        assert none.endswith("'zzz'; it takes none")


@pytest.mark.anyio
async def test_parameters_that_libraries_and_links_add_are_ignored(embedded: Site) -> None:
    added = "_=1700000000000&r=5&evs_preamble=2056&utm_source=x"
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for named in ("lastEventId=", "Last-Event-ID=", "since="):
            async with gateway.opened(f"/v2/stream/s?{named}&{added}") as stream:
                await stream.opened()
        assert (await gateway.get(f"/v2/explain?streams=s&{added}")).status == 200


@pytest.mark.anyio
async def test_paths_without_parameters_accept_any(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for path in ("/healthz", "/v2/streams", "/v2/streams/activity", "/_info", "/?spec&x=1"):
            assert (await gateway.get(f"{path}{'&' if '?' in path else '?'}probe=1")).status == 200


@pytest.mark.anyio
async def test_a_post_with_an_unknown_parameter_appends_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        refused = await here.http.post("/v1/events?hastry=true", json=event())
        assert refused.status_code == 400
        assert "did you mean hasty?" in refused.json()["detail"]
        assert await here.documents(TEST) == []
    async with place(tmp_path / "other", compatibility="eventgate") as here:
        assert (await here.http.post("/v1/events?hastry=true", json=event())).status_code == 201


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=60))
def test_the_nearest_names_are_known_ones(name: str, known: list[str]) -> None:
    found = nearest(name, known, 3)
    assert set(found) <= set(known)
    assert len(found) <= 3


def test_of_thousands_of_names_only_the_most_alike_are_compared() -> None:
    known = [f"stream.{n:05}.changes" for n in range(2_000)]
    assert nearest("stream.01217.chnages", known) == ["stream.01217.changes"]


def test_long_names_are_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[list[str]] = []

    def get_close_matches(_: str, among: Iterable[str], n: int) -> list[str]:
        compared.append(list(among))
        return compared[-1][:n]

    monkeypatch.setattr("difflib.get_close_matches", get_close_matches)
    known = [f"{n:05}{'ab' * 35}" for n in range(2_000)]
    nearest("ab" * 40, known)
    nearest("filtre", [f"name{n}" for n in range(2_000)])
    assert [len(names) for names in compared] == [5, 40]
