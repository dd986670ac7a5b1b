"""Instances on real Kafka and on the embedded log, killed, paused and rebalanced under load.

EVENTSTREAMS_TEST_LONG=1 runs the long form: 100 kills instead of 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.base import Log
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from tests.propagation.stage import Target
from tests.support.kafka_node import new_topic
from tests.support.kafka_tools import opened
from tests.support.process import kill
from tests.support.thoroughness import LONG

pytestmark = pytest.mark.anyio

KILLS = 100 if LONG else 4
KEYS = 12
START_S = 240.0


class Instance:
    """`eventstreams propagate` in its own process."""

    def __init__(self, rules: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "eventstreams", "propagate", "--rules", str(rules)),
            *options,
        ]
        self._process: asyncio.subprocess.Process
        self._log = rules.with_suffix(".log").open("ab")

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=self._log, stderr=self._log
        )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            self._process.send_signal(number)

    async def kill(self) -> None:
        await kill(self._process)

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.wait()

    async def wait(self) -> int:
        """Its exit status."""
        return await self._process.wait()

    def close(self) -> None:
        self._log.close()


def write_rules(tmp_path: Path, topic: str, target: Target, service: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(
        f"service: {service}\nstart: earliest\ntargets: {{allow_private: true}}\n"
        "rules:\n  ordered:\n"
        f"    topic: {topic}\n    order_by: '{{{{message.key}}}}'\n    dedupe: false\n"
        "    retry_limit: 100\n    retry_delay: 50\n    retry_factor: 1\n"
        "    exec:\n      method: post\n"
        f"      uri: 'http://127.0.0.1:{target.port}/{{message.key}}/{{message.n}}'\n"
    )
    return path


async def put(log: Log, topic: str, first: int, count: int) -> None:
    """Events of KEYS keys, numbered per topic; each key stays in one partition."""
    await log.append(
        [
            Record(
                topic,
                json.dumps({"key": f"k{n % KEYS}", "n": n, "meta": {"stream": topic}}).encode(),
                f"k{n % KEYS}".encode(),
            )
            for n in range(first, first + count)
        ]
    )


def acted_on(target: Target) -> dict[str, list[int]]:
    """Return the numbers of the events of each key, in the order of their first request."""
    by_key: dict[str, dict[int, None]] = defaultdict(dict)
    for call in list(target.calls):
        _, key, n = call.path.split("/")
        by_key[key][int(n)] = None
    return {key: list(numbers) for key, numbers in by_key.items()}


async def until_acted_on(target: Target, count: int) -> None:
    async with asyncio.timeout(START_S):
        while sum(map(len, acted_on(target).values())) < count:
            await target.received(len(target.calls) + 1)


def check(target: Target, count: int) -> int:
    """Check that every event was acted on, in order per key; return how many were repeated."""
    found = acted_on(target)
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(count))
    for key, numbers in found.items():
        assert numbers == sorted(numbers), key
    return len(target.calls) - count


def committed(positions: Path, topic: str) -> int:
    """Return the offset that would be read next after a kill."""
    if not positions.exists():
        return 0
    document: dict[str, dict[str, dict[str, int]]] = json.loads(positions.read_bytes())
    [topics] = document.values()
    return topics[topic]["0"]


@pytest.mark.kafka
async def test_three_instances_share_a_topic_while_one_is_killed_and_one_is_paused(
    kafka: str, tmp_path: Path
) -> None:
    topic, service = new_topic("prop"), new_topic("svc")
    async with Target().running() as target, opened(kafka) as log:
        await log.create_topic(topic, 3)
        rules = write_rules(tmp_path, topic, target, service)
        instances = [Instance(rules, "--kafka", kafka) for _ in range(3)]
        try:
            await put(log, topic, 0, 60)
            for instance in instances:
                await instance.start()
            await until_acted_on(target, 60)
            instances[1].signal(signal.SIGSTOP)
            await put(log, topic, 60, 120)
            await instances[0].kill()
            # The third has everything once the session of the others is over.
            await until_acted_on(target, 180)
            instances[1].signal(signal.SIGCONT)
            await put(log, topic, 180, 60)
            await instances[0].start()
            await until_acted_on(target, 240)
            await put(log, topic, 240, 60)
            await until_acted_on(target, 300)
            assert await instances[2].stop() == 0
            await put(log, topic, 300, 30)
            await until_acted_on(target, 330)
            repeated = check(target, 330)
            print(f"{repeated} of {len(target.calls)} requests were repeated")
        finally:
            for instance in instances:
                instance.signal(signal.SIGCONT)
                await instance.kill()
                instance.close()


async def test_no_event_is_skipped_over_random_kills(tmp_path: Path) -> None:
    """With the embedded log, kill -9 comes at any time, even while positions are written."""
    chance = random.Random(7)
    topic = "killed"
    log = SqliteLog(directory=tmp_path / "data", settings=SqliteSettings(retention_age_s=None))
    await log.start()
    async with Target().running() as target:
        target.answer = lambda _: chance.choice([200, 200, 200, 200, 503])
        rules = write_rules(tmp_path, topic, target, "killed")
        instance = Instance(rules, "--data-dir", str(tmp_path / "data"))
        total = 0
        try:
            for _ in range(KILLS):
                await instance.start()
                count = chance.randrange(10, 60)
                await put(log, topic, total, count)
                total += count
                left = total - committed(tmp_path / "data" / "propagation-killed.json", topic)
                async with asyncio.timeout(START_S):
                    await target.received(len(target.calls) + chance.randint(1, left))
                await instance.kill()
            target.answer = lambda _: 200
            await instance.start()
            await until_acted_on(target, total)
            assert await instance.stop() == 0
            assert not (tmp_path / "data" / "propagation-killed.json.new").exists()
            print(f"{check(target, total)} of {len(target.calls)} requests were repeated")
        finally:
            with contextlib.suppress(ProcessLookupError):
                await instance.kill()
            instance.close()
            await log.aclose()


@pytest.mark.parametrize("options", [[], ["--port", "0"]], ids=["without a port", "with a port"])
async def test_a_stopped_instance_finishes_running_jobs(tmp_path: Path, options: list[str]) -> None:
    log = SqliteLog(directory=tmp_path / "data", settings=SqliteSettings(retention_age_s=None))
    await log.start()
    async with Target().running() as target:
        rules = write_rules(tmp_path, "t", target, "stopped")
        instance = Instance(rules, "--data-dir", str(tmp_path / "data"), *options)
        try:
            await put(log, "t", 0, 20)
            await instance.start()
            await until_acted_on(target, 20)
            target.hold()
            await put(log, "t", 20, 5)
            await target.received(25)
            instance.signal(signal.SIGTERM)
            target.release()
            assert await instance.wait() == 0
            await put(log, "t", 25, 5)
            await instance.start()
            await until_acted_on(target, 30)
            assert await instance.stop() == 0
            assert check(target, 30) == 0
        finally:
            await instance.kill()
            instance.close()
            await log.aclose()
