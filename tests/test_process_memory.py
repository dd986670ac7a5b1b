"""Memory is returned to the system after many clients have left, not while they leave."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from eventstreams import process_memory
from eventstreams.tasks import background
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_memory_is_returned_once_after_many_streams_end() -> None:
    looks = iter([0, 10, 49, 49, 49, 80, 120, 120, 120, 120, 169, 169, 175, 175])
    seen: list[int] = []
    trims: list[int] = []
    over = asyncio.Event()

    def ended() -> int:
        seen.append(next(looks, 175))
        if len(seen) > 20:
            over.set()
        return seen[-1]

    returning = process_memory.give_back(ended, lambda: trims.append(seen[-1]), every_s=0.0)
    async with background(returning):
        await over.wait()
    assert trims == [120, 175]


def test_the_c_library_can_return_memory() -> None:
    trim = process_memory._trim()
    assert trim is not None
    trim()


_KEPT = """
import gc, weakref
from eventstreams.process_memory import kept_objects

class Node:
    def __init__(self):
        self.itself = self

now_s = 0.0
with kept_objects(lambda: now_s):
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 1_000, "a collection examines few objects"
    gone = weakref.ref(Node())
    gc.collect()
    assert gone() is None, "later objects are collected"
    node = Node()
    kept = weakref.ref(node)
    gc.collect()
    assert len(gc.get_objects()) < 1_000, "what survives is not examined again"
    del node
    gc.collect()
    assert kept() is not None
    now_s += 3600
    gc.collect()
    assert kept() is None, "after an hour everything is examined"
    assert gc.get_freeze_count() > 10_000
assert gc.get_freeze_count() == 0
assert not gc.callbacks
"""


def test_kept_objects_are_exempt_from_garbage_collection() -> None:
    subprocess.run([sys.executable, "-c", _KEPT], check=True, timeout=PATIENCE_S)
