"""Appends: per partition one batch under way at a time, made of whatever gathered meanwhile.

aiokafka's producer is not used. An idempotent one never gives a batch up: after a timeout the
record would still be sent some time later, behind the back of a caller who was told that it failed;
and one batch refused leaves a gap in its sequence numbers that no later batch can pass. Here each
partition has a producer id of its own, and takes a new one whenever the broker's last answer is
missing or says that the old one is worth nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from eventstreams.errors import LogError, LogUnavailable
from eventstreams.log import kafka_errors as errors
from eventstreams.log.kafka_brokers import Brokers
from eventstreams.log.kafka_records import pack, size_of
from eventstreams.model.event import Partition, Record
from eventstreams.settings import KafkaSettings

_LANE = "append"
_RETRY_PAUSE_S = 0.1
# Well below the 1 MiB that brokers take by default; a larger record goes alone.
_BATCH_BYTES_MAX = 512 * 1024
_ALL_IN_SYNC = -1
_INT32_MAX = 2**31 - 1


class _Piece:
    """One call's share of a partition. Ends in the offsets of its records, or an error."""

    def __init__(self, records: Sequence[Record], deadline: float) -> None:
        self.records = records
        self.deadline = deadline
        self.bytes = sum(map(size_of, records))
        self.outcome: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()


class Writer:
    """The writer of one partition."""

    def __init__(self, home: Partition, *, brokers: Brokers, settings: KafkaSettings) -> None:
        self._home = home
        self._brokers = brokers
        self._settings = settings
        self._waiting: deque[_Piece] = deque()
        self._producer: tuple[int, int] | None = None
        self._sequence = 0
        self._drain: asyncio.Task[None] | None = None

    def write(self, records: Sequence[Record], deadline: float) -> asyncio.Future[list[int]]:
        piece = _Piece(records, deadline)
        self._waiting.append(piece)
        if self._drain is None:
            # Not the caller's: it also writes what others add meanwhile.
            self._drain = asyncio.create_task(self._write_all())
        return piece.outcome

    async def finish(self) -> None:
        while self._drain is not None:
            await asyncio.wait([self._drain])

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(self._gather())
        finally:
            self._drain = None
            while self._waiting:
                _end(self._waiting.popleft(), LogUnavailable("the log is closing"))

    def _gather(self) -> list[_Piece]:
        """The next piece, and as many more as fit in one batch with it."""
        pieces = [self._waiting.popleft()]
        size = pieces[0].bytes
        while self._waiting and size + self._waiting[0].bytes <= _BATCH_BYTES_MAX:
            pieces.append(self._waiting.popleft())
            size += pieces[-1].bytes
        return pieces

    async def _write(self, pieces: list[_Piece]) -> None:
        records = [record for piece in pieces for record in piece.records]
        deadline = min(piece.deadline for piece in pieces)
        offsets: list[int] = []
        try:
            for batch in _batches(records):
                first = await self._send(batch, deadline)
                offsets.extend(range(first, first + len(batch)))
        except LogError as error:
            if len(pieces) > 1 and not isinstance(error, LogUnavailable):
                for piece in pieces:  # one record is refused; only its own caller is to know
                    await self._write([piece])
                return
            for piece in pieces:
                _end(piece, error)
            return
        except BaseException:
            for piece in pieces:
                _end(piece, LogUnavailable("the append was cut off"))
            raise
        at = 0
        for piece in pieces:
            _end(piece, offsets[at : at + len(piece.records)])
            at += len(piece.records)

    async def _send(self, batch: Sequence[Record], deadline: float) -> int:
        """Sends until an answer says yes or no; returns the offset of the batch's first record."""
        trial = _Trial()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while (offset := await self._try(batch, trial)) is None:
                    self._brokers.forget([self._home])
                    await asyncio.sleep(_RETRY_PAUSE_S)
        except TimeoutError as error:
            raise self._unavailable(trial.problem) from error
        finally:
            if trial.unsure:  # its sequence numbers may be used or not: start with new ones
                self._producer = None
        self._sequence = (self._sequence + len(batch)) & _INT32_MAX
        return offset

    async def _try(self, batch: Sequence[Record], trial: _Trial) -> int | None:
        """One attempt. None: try again, with the same sequence number, so nothing comes twice."""
        try:
            node = next(iter(await self._brokers.route([self._home])), None)
            if node is None or not await self._has_producer(node):
                return None
        except LogUnavailable as error:
            if not trial.unsure:
                raise
            trial.problem = str(error)
            return None
        unsure_before, trial.unsure = trial.unsure, True
        try:
            code, offset = await self._produce(node, batch)
        except LogUnavailable as error:
            trial.problem = str(error)
            return None
        trial.problem = errors.name_of(code)
        trial.unsure = code != errors.NONE and (unsure_before or code in errors.MAYBE_WRITTEN)
        if code == errors.NONE:
            return offset
        if code in errors.PRODUCER_FORGOTTEN:
            if trial.unsure:
                raise self._unavailable("the outcome is not known")
            self._producer = None
        elif code not in errors.PASSING:
            trial.unsure = False  # what is refused now was not taken before
            raise errors.append_refusal(code, self._home)
        return None

    def _unavailable(self, problem: str) -> LogUnavailable:
        return LogUnavailable(f"appending to {self._home.topic}: {problem}", [self._home])

    async def _has_producer(self, node: int) -> bool:
        if self._producer is None:
            no_transactions: Any = None  # the field may be null, whatever its annotation says
            request = InitProducerIdRequest(no_transactions, _INT32_MAX)
            answer = await self._brokers.ask(_LANE, node, request)
            if answer.error_code in errors.PASSING:
                return False
            if answer.error_code != errors.NONE:
                raise errors.append_refusal(answer.error_code, self._home)
            self._producer = (answer.producer_id, answer.producer_epoch)
            self._sequence = 0
        return True

    async def _produce(self, node: int, batch: Sequence[Record]) -> tuple[int, int]:
        """The error's number and the first record's offset. Raises LogUnavailable."""
        assert self._producer is not None
        data = pack(
            batch,
            codec=self._settings.compression,
            producer=self._producer,
            sequence=self._sequence,
        )
        timeout_ms = int(self._settings.request_timeout_s * 1000)
        to_topic = [(self._home.topic, [(self._home.number, data)])]
        answer = await self._brokers.ask(
            _LANE, node, ProduceRequest(None, _ALL_IN_SYNC, timeout_ms, to_topic)
        )
        _, code, offset, *_ = answer.topics[0][1][0]
        return code, offset


class _Trial:
    """The attempts at one batch. `unsure`: it may have been written without our being told."""

    def __init__(self) -> None:
        self.unsure = False
        self.problem = "no leader"


def _batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        size += size_of(record)
        if batch and size > _BATCH_BYTES_MAX:
            yield batch
            batch, size = [], size_of(record)
        batch.append(record)
    if batch:
        yield batch


def _end(piece: _Piece, outcome: list[int] | LogError) -> None:
    if piece.outcome.done():  # the event loop is being torn down
        return
    if isinstance(outcome, LogError):
        piece.outcome.set_exception(outcome)
    else:
        piece.outcome.set_result(outcome)
