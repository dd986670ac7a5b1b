"""A reader that checks all it gets: nothing missing, nothing twice, or a gap frame that said so."""

from __future__ import annotations

import json
from typing import Any

from eventstreams.model.event import Partition
from tests.wire import Frame, place_of


class History:
    """What was ever appended, by partition: the truth that readers are measured by."""

    def __init__(self) -> None:
        self.stamps: dict[Partition, list[int]] = {}
        """By offset, of what was before it: the newest record that is not a hole; 0 for none."""
        self.texts: dict[Partition, list[str | None]] = {}
        """By offset; None where there is no event to deliver."""
        self.forgotten: set[Partition] = set()
        """Where retention was at work: the record before an offset may be gone, and its time."""

    def add(
        self, partition: Partition, offset: int, stamp: int, text: str | None, *, hole: bool = False
    ) -> None:
        texts = self.texts.setdefault(partition, [])
        assert offset == len(texts)
        texts.append(text)
        stamps = self.stamps.setdefault(partition, [0])
        stamps.append(stamps[-1] if hole else stamp)

    def end(self, partition: Partition) -> int:
        return len(self.texts.get(partition, ()))

    def next(self, partition: Partition, offset: int) -> int:
        """The first event to deliver at or after `offset`; the end where there is none."""
        texts = self.texts.get(partition, [])
        return next((o for o in range(offset, len(texts)) if texts[o] is not None), len(texts))


class Reader:
    """Follows a client over all its connections. `at` is the next offset of every partition."""

    def __init__(self, history: History, at: dict[Partition, int], growing: set[str]) -> None:
        self.history = history
        self.at = dict(at)
        self.growing = growing
        self.last_id: str | None = None
        self.gaps: list[dict[str, Any]] = []
        self.got = 0

    def initial_id(self) -> str:
        """Before any frame came: what a client brings from its last visit."""
        return json.dumps(
            [
                {
                    "topic": p.topic,
                    "partition": p.number,
                    "offset": offset,
                    "timestamp": self.history.stamps.get(p, [0])[offset],
                }
                for p, offset in self.at.items()
            ]
        )

    def take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.event == "gap":
                self._gap(frame)
            elif frame.event == "message":
                self._message(frame)
            else:
                raise AssertionError(frame)
            self._id(frame)

    def _message(self, frame: Frame) -> None:
        topic, number, offset = place_of(frame)
        partition = Partition(topic, number)
        expected = self.history.next(partition, self._at(partition))
        assert offset == expected, f"{partition}: got {offset}, {expected} was next"
        assert json.loads(frame.data)["text"] == self.history.texts[partition][offset]
        self.at[partition] = offset + 1
        self.got += 1

    def _gap(self, frame: Frame) -> None:
        for told in json.loads(frame.data)["partitions"]:
            partition = Partition(told["topic"], told["partition"])
            at = self._at(partition)
            assert at <= told["requested"] <= self.history.next(partition, at)
            assert told["cause"] == "retention"
            assert told["requested"] < told["resumed"]
            self.at[partition] = told["resumed"]
            self.gaps.append(told)

    def _id(self, frame: Frame) -> None:
        assert frame.id is not None
        entries = json.loads(frame.id)
        for entry in entries:
            partition = Partition(entry["topic"], entry["partition"])
            at = self._at(partition)
            assert at <= entry["offset"] <= self.history.next(partition, at)
            stamp = self.history.stamps.get(partition, [0])[entry["offset"]]
            if stamp and partition not in self.history.forgotten:
                assert entry["timestamp"] == stamp, entry
        assert {Partition(e["topic"], e["partition"]) for e in entries} >= self.at.keys()
        self.last_id = frame.id

    def _at(self, partition: Partition) -> int:
        """A partition that a topic has gained is read from its first record on."""
        if partition not in self.at:
            assert partition.topic in self.growing
            self.at[partition] = 0
        return self.at[partition]

    def missing(self, partitions: list[Partition]) -> bool:
        """Whether there is something of these that it should have and has not."""
        return any(
            self.history.next(p, self.at.get(p, 0)) < self.history.end(p)
            for p in partitions
            if p in self.at or p.topic in self.growing
        )
