"""Sends, for each partition, one batch at a time of all records that wait to be appended.

aiokafka's producer is not used. In idempotent mode it never abandons a batch: after a timeout,
which was reported as a failure, it still sends the record later. A refused batch leaves a gap
in its sequence numbers, so that all later batches are refused as well. Here each partition has its
own producer id, and gets a new one whenever the broker does not answer or no longer accepts the old
one.
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

from eventstreams.config.settings import KafkaSettings
from eventstreams.errors import LogError, LogUnavailable
from eventstreams.log.kafka import errors
from eventstreams.log.kafka.brokers import Brokers
from eventstreams.log.kafka.protocol import Produce, Produced, produced
from eventstreams.log.kafka.records import pack, size_of
from eventstreams.model.event import Partition, Record

_LANE = "append"
_RETRY_PAUSE_S = 0.1
"""Seconds between attempts to write a batch."""
_BATCH_BYTES_MAX = 512 * 1024
"""Well below the 1 MiB that brokers accept by default. A larger record is sent alone."""
_INT32_MAX = 2**31 - 1


class _Piece:
    """The records of one call for one partition. `outcome` gets their offsets, or an error."""

    def __init__(self, records: Sequence[Record], deadline: float) -> None:
        self.records = records
        self.deadline = deadline
        self.bytes = sum(map(size_of, records))
        self.outcome: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._offsets: list[int] = []

    def placed(self, offset: int) -> None:
        """Record the offset of the next record. After the last one, the piece ends."""
        self._offsets.append(offset)
        if len(self._offsets) == len(self.records):
            self.end(None)

    def end(self, error: LogError | None) -> None:
        if self.outcome.done():  # it ended before, or the event loop is closing
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(self._offsets)


class _Refused(Exception):
    """The broker refused a batch as a whole; `code` is the number of its error."""

    def __init__(self, code: int, by_record: Mapping[int, str]) -> None:
        super().__init__(errors.name_of(code))
        self.code = code
        self._by_record = by_record

    def reasons(self, count: int) -> Iterator[tuple[int, str]]:
        """Return the index of each invalid record, if below `count`, with the broker's reason."""
        return ((n, reason) for n, reason in self._by_record.items() if 0 <= n < count)

    def error(self, home: Partition, reason: str) -> LogError:
        return errors.append_refusal(self.code, home, reason)


class KafkaWriter:
    """The writer of one partition."""

    def __init__(
        self,
        home: Partition,
        *,
        brokers: Brokers,
        settings: KafkaSettings,
        batch_bytes_max: int = _BATCH_BYTES_MAX,
        retry_pause_s: float = _RETRY_PAUSE_S,
    ) -> None:
        self._home = home
        self._brokers = brokers
        self._settings = settings
        self._batch_bytes_max = batch_bytes_max
        """This becomes smaller if the topic does not accept batches of this size."""
        self._retry_pause_s = retry_pause_s
        self._waiting: deque[_Piece] = deque()
        self._producer: tuple[int, int] | None = None
        self._sequence = 0
        self._drain: asyncio.Task[None] | None = None

    def write(self, records: Sequence[Record], deadline: float) -> asyncio.Future[list[int]]:
        """Return a future of the records' offsets, in order.

        Its error is LogUnavailable after `deadline`, which is a time of the monotonic clock in
        seconds, or AppendRefused if the broker refuses one of the records.
        """
        piece = _Piece(records, deadline)
        self._waiting.append(piece)
        if self._drain is None:
            # A task of its own, because it also writes the records of later calls.
            self._drain = asyncio.create_task(self._write_all())
        return piece.outcome

    async def finish(self) -> None:
        """Wait until all records are written or refused."""
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
        """Return the next piece, and as many more as fit into the same batch."""
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
                    at_fault = {batch[n][0]: reason for n, reason in refused.reasons(len(batch))}
                    if not at_fault and len(mine) > 1 and refused.code in errors.OF_RECORDS:
                        records_max = len(batch) // 2  # the broker does not name the records
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
                piece.end(LogUnavailable("the append was interrupted"))
            raise

    def _next_batch(self, todo: Iterable[tuple[_Piece, Record]]) -> Iterator[tuple[_Piece, Record]]:
        size = 0
        for piece, record in todo:
            if size and size + size_of(record) > self._batch_bytes_max:
                return
            size += size_of(record)
            yield piece, record

    async def _send(self, batch: Sequence[Record], deadline: float) -> int:
        """Send until the broker accepts or refuses; return the offset of the first record.

        Raises _Refused, LogUnavailable.
        """
        trial = _Trial()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while (offset := await self._try(batch, trial)) is None:
                    self._brokers.forget([self._home])
                    await asyncio.sleep(self._retry_pause_s)
        except TimeoutError as error:
            raise self._unavailable(trial.problem) from error
        finally:
            if trial.unsure:  # the broker may have used its sequence numbers: get a new producer
                self._producer = None
        self._sequence = (self._sequence + len(batch)) & _INT32_MAX
        return offset

    async def _try(self, batch: Sequence[Record], trial: _Trial) -> int | None:
        """Make one attempt; return the offset, or None to try again.

        Further attempts use the same sequence number, so that nothing is written twice.
        """
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
                raise self._unavailable("the outcome is unknown")
            self._producer = None
        elif code not in errors.PASSING:
            trial.unsure = False  # a batch that is refused now was not written before
            raise _Refused(code, refused)
        return None

    def _unavailable(self, problem: str) -> LogUnavailable:
        return LogUnavailable(f"appending to {self._home.topic}: {problem}", [self._home])

    async def _has_producer(self, node: int) -> bool:
        if self._producer is None:
            no_transactions: Any = None  # may be null, although the annotation does not allow it
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
        """Send the batch once. Raises LogUnavailable."""
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
    """The attempts at one batch. `unsure` says that it may have been written without an answer."""

    def __init__(self) -> None:
        self.unsure = False
        self.problem = "no leader"
