"""Creates topics and adds partitions to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka.protocol.admin import CreatePartitionsRequest, CreateTopicsRequest

from eventstreams.log.kafka import errors
from eventstreams.log.kafka.brokers import METADATA_LANE, Brokers

_BROKER_DEFAULT = -1
_RETRY_PAUSE_S = 0.05

# A topic "already exists" if another process created it, or if the broker's metadata is outdated.
_AGAIN = errors.PASSING | {errors.NONE, errors.TOPIC_ALREADY_EXISTS, errors.INVALID_PARTITIONS}


async def make_topic(
    brokers: Brokers,
    topic: str,
    partitions: int,
    timeout_s: float,
    configs: Sequence[tuple[str, str]] = (),
) -> None:
    """Create the topic, or add partitions, until a broker reports at least `partitions` of them.

    `configs` apply to a new topic. The caller must bound the time. Raises LogUnavailable, also if
    the cluster refuses.
    """
    assert partitions >= 1, "a topic has at least one partition"
    timeout_ms = int(timeout_s * 1000)
    while (count := (await brokers.refresh([topic])).get(topic, 0)) < partitions:
        more: Any = [(topic, (partitions, None))]
        new: Any = [(topic, partitions, _BROKER_DEFAULT, [], list(configs))]
        request = (
            CreatePartitionsRequest(more, timeout_ms, False)
            if count
            else CreateTopicsRequest(new, timeout_ms, False)
        )
        answer = await brokers.ask(METADATA_LANE, brokers.controller(), request)
        code = answer.topic_errors[0][1]
        if code not in _AGAIN:
            raise errors.refusal(code, f"creating topic {topic}")
        await asyncio.sleep(_RETRY_PAUSE_S)
