"""Finding the last of the ids that a proxy has joined takes steps, and its result does not depend
on where they end."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstreams.model.steps import finished
from eventstreams.turns import Turns
from eventstreams.web import request

pytestmark = pytest.mark.anyio

JOINED = re.compile(
    r"(?:(?<=\])|(?<=\]\})|v[12]\.[\w-]++)\s*+,\s*+(?=[\[{])|(?<!\s)\s*+,\s*+(?=v[12]\.)"
)
"""What stands between two ids, read forwards. Slow, but plain."""
PARTS = st.sampled_from(["[", "]", "{", "}", "v1.", "v2.", ",", " ", "a", "-", ".", "1", "\n", "é"])


@given(st.lists(PARTS, max_size=20).map("".join), st.integers(1, 8))
@example('[{"a":1}] , {"id":["b"]},v1.abc', 1)
@example("v1.abc , [1]", 2)
@example("v1.[,v2.-, {", 3)
def test_the_last_id_is_what_follows_the_last_comma_between_ids(text: str, step: int) -> None:
    assert finished(request.last_of_joined(text, step)) == JOINED.split(text)[-1]


@pytest.mark.parametrize("unit", ["[", "[,", "v1.", "a", " ", '{"topic":"t","partition":0},'])
def test_a_long_id_is_searched_in_steps(unit: str) -> None:
    text = unit * (256 * 1024 // len(unit))
    assert sum(1 for _ in request.last_of_joined(text)) == 3


async def test_other_work_runs_between_the_steps_of_a_request_with_a_long_id() -> None:
    partitions = [{"topic": "t", "partition": n, "offset": 1} for n in range(4_000)]
    scope = {
        "query_string": b"",
        "raw_path": b"/v2/stream/s",
        "path": "/v2/stream/s",
        "headers": [(b"last-event-id", json.dumps(partitions).encode())],
    }
    clock = iter(range(1_000_000))  # each look at the clock finds that a turn is over
    turns = Turns(clock=lambda: float(next(clock)))
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    asked = await turns.run("a", request.read(turns, "a", scope, "always"))
    counting.cancel()
    assert len(asked.cursors or ()) == 4_000
    assert passes > 4_000 / 256
