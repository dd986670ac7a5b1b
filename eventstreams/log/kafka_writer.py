"""Appends: per partition one batch under way at a time, made of whatever gathered meanwhile.

aiokafka's producer is not used. An idempotent one never gives a batch up: after a timeout the
record would still be sent some time later, behind the back of a caller who was told that it failed;
and one batch refused leaves a gap in its sequence numbers that no later batch can pass. Here each
partition has a producer id of its own, and takes a new one whenever the broker's last answer is
missing or says that the old one is worth nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from aiokafka.protocol.transaction import InitProducerIdRequest

from eventstreams.errors import LogError, LogUnavailable
from eventstreams.log import kafka_errors as errors
from eventstreams.log.kafka_brokers import Brokers
from eventstreams.log.kafka_protocol import Produce, Produced, produced
from eventstreams.log.kafka_records import pack, size_of
from eventstreams.model.event import Partition, Record
from eventstreams.settings import KafkaSettings

_LANE = "append"
_RETRY_PAUSE_S = 0.1
# Well below the 1 MiB that brokers take by default; a larger record goes alone.
_BATCH_BYTES_MAX = 512 * 1024
_INT32_MAX = 2**31 - 1


class _Piece:
    """One call's share of a partition. Ends in the offsets of its records, or an error."""

    def __init__(self, records: Sequence[Record], deadline: float) -> None:
        self.records = records
        self.deadline = deadline
        self.bytes = sum(map(size_of, records))
        self.outcome: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._offsets: list[int] = []

    def placed(self, offset: int) -> None:
        """Note where the next record went. After the last one the piece has ended."""
        self._offsets.append(offset)
        if len(self._offsets) == len(self.records):
            self.end(None)

    def end(self, error: LogError | None) -> None:
        if self.outcome.done():  # ended before, or the event loop is being torn down
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(self._offsets)


class _Refused(Exception):
    """The broker takes nothing of a batch; `code` is its error's number."""

    def __init__(self, code: int, by_record: Mapping[int, str]) -> None:
        super().__init__(errors.name_of(code))
        self.code = code
        self._by_record = by_record

    def reasons(self, count: int) -> Iterator[tuple[int, str]]:
        """The indices of the records at fault, below `count`, each with the broker's reason."""
        return ((n, reason) for n, reason in self._by_record.items() if 0 <= n < count)

    def error(self, home: Partition, reason: str) -> LogError:
        return errors.append_refusal(self.code, home, reason)


class Writer:
    """The writer of one partition."""

    def __init__(self, home: Partition, *, brokers: Brokers, settings: KafkaSettings) -> None:
        self._home = home
        self._brokers = brokers
        self._settings = settings
        self._batch_bytes_max = _BATCH_BYTES_MAX
        """Less where the topic takes no batch as large as that."""
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
                self._waiting.popleft().end(LogUnavailable("the log is closing"))

    def _gather(self) -> list[_Piece]:
        """The next piece, and as many more as fit in one batch with it."""
        pieces = [self._waiting.popleft()]
        size = pieces[0].bytes
        while self._waiting and size + self._waiting[0].bytes <= self._batch_bytes_max:
            pieces.append(self._waiting.popleft())
            size += pieces[-1].bytes
        return pieces

    async def _write(self, pieces: Sequence[_Piece]) -> None:
        """Write the pieces in their order, and end each of them.

        A refused batch leaves nothing in the log. It is sent again without the pieces at fault.
        """
        records_max = sys.maxsize
        todo: deque[tuple[_Piece, Record]] = deque()
        todo.extend((piece, record) for piece in pieces for record in piece.records)
        try:
            while todo:
                batch = list(islice(self._next_batch(todo), records_max))
                mine = list(dict.fromkeys(piece for piece, _ in batch))
                deadline = min(piece.deadline for piece in mine)
                try:
                    first = await self._send([record for _, record in batch], deadline)
                except _Refused as refused:
                    if refused.code in errors.TOO_LARGE and len(batch) > 1:
                        size = sum(size_of(record) for _, record in batch)
                        self._batch_bytes_max = size // 2
                        continue
                    at_fault = {batch[n][0]: said for n, said in refused.reasons(len(batch))}
                    if not at_fault and len(mine) > 1 and refused.code in errors.OF_RECORDS:
                        records_max = len(batch) // 2  # the broker does not say which
                        continue
                    for piece in mine:
                        if not at_fault or piece in at_fault:
                            error = refused.error(self._home, at_fault.get(piece, ""))
                            piece.end(error)
                    todo = deque([entry for entry in todo if not entry[0].outcome.done()])
                else:
                    for offset in range(first, first + len(batch)):
                        todo.popleft()[0].placed(offset)
                records_max = min(2 * records_max, sys.maxsize)
        except LogError as error:
            for piece in pieces:
                piece.end(error)
        except BaseException:
            for piece in pieces:
                piece.end(LogUnavailable("the append was cut off"))
            raise

    def _next_batch(self, todo: Iterable[tuple[_Piece, Record]]) -> Iterator[tuple[_Piece, Record]]:
        size = 0
        for piece, record in todo:
            if size and size + size_of(record) > self._batch_bytes_max:
                return
            size += size_of(record)
            yield piece, record

    async def _send(self, batch: Sequence[Record], deadline: float) -> int:
        """Send until an answer says yes or no; return the offset of the batch's first record.

        Raises _Refused, LogUnavailable.
        """
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
            code, offset, refused = await self._produce(node, batch)
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
            raise _Refused(code, refused)
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

    async def _produce(self, node: int, batch: Sequence[Record]) -> Produced:
        """Send it once. Raises LogUnavailable."""
        assert self._producer is not None
        data = pack(
            batch,
            codec=self._settings.compression,
            producer=self._producer,
            sequence=self._sequence,
        )
        timeout_ms = int(self._settings.request_timeout_s * 1000)
        request = Produce(self._home, data, timeout_ms=timeout_ms)
        return produced(await self._brokers.ask(_LANE, node, request))


class _Trial:
    """The attempts at one batch. `unsure`: it may have been written without our being told."""

    def __init__(self) -> None:
        self.unsure = False
        self.problem = "no leader"
