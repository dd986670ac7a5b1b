"""A reader that checks that no event is missing or repeated unless a gap frame reports it."""

from __future__ import annotations

import json
from typing import Any

from eventstreams.model.event import Partition
from tests.support.wire import Frame, place_of


class History:
    """All records that were ever appended, by partition, with which readers are compared."""

    def __init__(self) -> None:
        self.stamps: dict[Partition, list[int]] = {}
        """For each offset, the time of the newest earlier record that is not a hole; 0 if none."""
        self.texts: dict[Partition, list[str | None]] = {}
        """The text of each event, by offset; None if there is no event to deliver."""
        self.forgotten: set[Partition] = set()
        """Partitions with retention: the record before an offset, and its time, may be missing."""

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
        """Return the offset of the first event at or after `offset`, or the end."""
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
        """Return the id that the client has from an earlier connection, before the first frame."""
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
        for reported in json.loads(frame.data)["partitions"]:
            partition = Partition(reported["topic"], reported["partition"])
            at = self._at(partition)
            assert at <= reported["requested"] <= self.history.next(partition, at)
            assert reported["cause"] == "retention"
            assert reported["requested"] < reported["resumed"]
            self.at[partition] = reported["resumed"]
            self.gaps.append(reported)

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
        """Return the next offset. An added partition is read from its first record."""
        if partition not in self.at:
            assert partition.topic in self.growing
            self.at[partition] = 0
        return self.at[partition]

    def missing(self, partitions: list[Partition]) -> bool:
        """Return whether events of these partitions are still to be received."""
        return any(
            self.history.next(p, self.at.get(p, 0)) < self.history.end(p)
            for p in partitions
            if p in self.at or p.topic in self.growing
        )
