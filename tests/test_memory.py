"""Memory goes back to the system when many clients have left, and not while they leave."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from eventstreams import memory
from eventstreams.tasks import background

pytestmark = pytest.mark.anyio


async def test_it_is_done_once_after_many_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0, 10, 49, 49, 49, 80, 120, 120, 120, 120, 169, 169, 175, 175])
    seen: list[int] = []
    trims: list[int] = []
    over = asyncio.Event()

    def ended() -> int:
        seen.append(next(looks, 175))
        if len(seen) > 20:
            over.set()
        return seen[-1]

    monkeypatch.setattr(memory, "_LOOK_EVERY_S", 0.0)
    async with background(memory.give_back(ended, lambda: trims.append(seen[-1]))):
        await over.wait()
    assert trims == [120, 175]


def test_the_c_library_of_this_system_can_do_it() -> None:
    trim = memory._trim()
    assert trim is not None
    trim()


_KEPT = """
import gc, weakref
from eventstreams.memory import keep_objects

class Node:
    pass

keep_objects()
assert gc.get_freeze_count() > 10_000
assert len(gc.get_objects()) < 1_000, "a collection looks at little"
node = Node()
node.itself = node
gone = weakref.ref(node)
del node
gc.collect()
assert gone() is None, "what is made later is collected"
"""


def test_objects_that_stay_cost_a_collection_nothing() -> None:
    subprocess.run([sys.executable, "-c", _KEPT], check=True, timeout=60)
