"""Configures all tests: asyncio under AnyIO's plugin, and a failure when a test blocks the loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from tests.support import kafka_node
from tests.support.thoroughness import LONG

# The duration of an example depends on the load of the machine, and the number of rejected
# examples on chance, neither on the property. In CI the short form has the same examples on each
# run, so that it fails because of a change; all other runs look for new ones.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize="CI" in os.environ and not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    max_examples=int(os.environ.get("EVENTSTREAMS_TEST_EXAMPLES", "200" if LONG else "50")),
)
settings.load_profile("any machine")


LONGEST_FIRST = (
    "tests/verify/test_kafka_sse.py",
    "tests/deploy/test_container.py",
    "tests/faults/test_cluster.py",
    "tests/page/test_quality.py",
    "tests/web/test_rolling.py",
    "tests/faults/test_big_records.py",
    "tests/page/test_reference.py",
    "tests/propagation/test_instances.py",
    "tests/hostile/test_abuse.py",
    "tests/page/test_module.py",
    "tests/docs/test_snippets.py",
    "tests/faults/test_truncation.py",
    "tests/install/",
    "tests/page/",
    "tests/log/kafka/test_outage.py",
    "tests/faults/",
    "tests/test_bench.py",
    "tests/test_mutants.py",
    "tests/intake/test_kill.py",
    "tests/test_kafka_cluster.py",
    "tests/verify/",
    "tests/cli/test_verify.py",
    "tests/fanout/test_resuming.py",
    "tests/scale/",
    "tests/deploy/",
    "tests/relay/",
    "tests/server/",
)
"""Files and folders in the order in which processes take them; all others come after these.

Short files at the end let all processes finish at about the same time.
"""


def _order(item: pytest.Item) -> int:
    matching = (n for n, begin in enumerate(LONGEST_FIRST) if item.nodeid.startswith(begin))
    return next(matching, len(LONGEST_FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Stop the shared broker at the end of the process that starts the others."""
    with contextlib.nullcontext() if hasattr(config, "workerinput") else kafka_node.sharing():
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    if LONG:
        config.option.timeout = 0  # some long forms take an hour


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_order)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx("eventstreams"):
        yield


@pytest.fixture(scope="session")
def kafka() -> str:
    """Return the host:port of a real broker; see tests/support/kafka_node.py."""
    return kafka_node.shared()
