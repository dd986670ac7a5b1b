"""Making topics and adding partitions to them."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.protocol.admin import CreatePartitionsRequest, CreateTopicsRequest

from eventstreams.log import kafka_errors as errors
from eventstreams.log.kafka_brokers import METADATA_LANE, Brokers

_BROKER_DEFAULT = -1
_RETRY_PAUSE_S = 0.05

# "There already" means that another was quicker, or that the broker asked has yet to hear of it.
_AGAIN = errors.PASSING | {errors.NONE, errors.TOPIC_ALREADY_EXISTS, errors.INVALID_PARTITIONS}


async def make_topic(brokers: Brokers, topic: str, partitions: int, timeout_s: float) -> None:
    """Returns once a broker shows the topic with that many partitions, or more.

    Does not bound its own waiting. Raises LogUnavailable, also when the cluster says no.
    """
    assert partitions >= 1, "a topic has at least one partition"
    timeout_ms = int(timeout_s * 1000)
    while (count := (await brokers.refresh([topic])).get(topic, 0)) < partitions:
        more: Any = [(topic, (partitions, None))]
        new: Any = [(topic, partitions, _BROKER_DEFAULT, [], [])]
        request = (
            CreatePartitionsRequest(more, timeout_ms, False)
            if count
            else CreateTopicsRequest(new, timeout_ms, False)
        )
        answer = await brokers.ask(METADATA_LANE, brokers.controller(), request)
        code = answer.topic_errors[0][1]
        if code not in _AGAIN:
            raise errors.refusal(code, f"making topic {topic}")
        await asyncio.sleep(_RETRY_PAUSE_S)
