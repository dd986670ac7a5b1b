"""Without the CEL runtime, everything but `filter=` works, and the error gives the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from eventstreams.filters import cel
from tests.support.gateway import Site

FILTER = quote("event.n == 1", safe="")


@pytest.fixture
def _no_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the import fail, as if the package were not installed."""
    monkeypatch.setitem(sys.modules, "cel_expr_python.cel", None)
    caches = (cel._environment, cel._compiled)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_filter_runtime_is_loaded_when_first_needed() -> None:
    code = (
        "import sys, eventstreams.cli.serve, eventstreams.gateway; "
        "from eventstreams.filters.cel import compile_filter; "
        "compile_filter(' '); print('cel_expr_python' in sys.modules); "
        "compile_filter('event.n == 1'); print('cel_expr_python' in sys.modules)"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.split() == ["False", "True"]


@pytest.mark.anyio
@pytest.mark.usefixtures("_no_runtime")
async def test_without_the_runtime_a_filter_is_501_and_the_rest_works(embedded: Site) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1, "m": 2})
    async with embedded.gateway({"s": [topic]}) as gateway:
        for target in (f"/v2/stream/s?filter={FILTER}", f"/v2/explain?streams=s&filter={FILTER}"):
            answer = await gateway.get(target)
            assert answer.status == 501
            problem = answer.json()
            assert problem["type"] == "filters_unavailable"
            assert "cel-expr-python" in problem["detail"]
            assert "everything else works" in problem["detail"]
        async with gateway.stream("s", since="earliest", fields="n", sample="1") as stream:
            assert (await stream.frame()).document["n"] == 1
        explained = await gateway.get("/v2/explain?streams=s&filter=%20&since=earliest")
        assert explained.json()["recent"]["matched"] == 1


@pytest.mark.usefixtures("_no_runtime")
def test_check_says_that_filters_are_missing() -> None:
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0
    assert "filters     filter= is not available, because the package" in result.stdout


def test_check_says_that_filters_are_available() -> None:
    assert "filters     available\n" in CliRunner().invoke(main, ["check"]).stdout
