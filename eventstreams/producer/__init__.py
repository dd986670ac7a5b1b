"""An asynchronous client of an intake: batches, retries, an outbox that outlives the process."""

from eventstreams.errors import OutboxError, ProducerClosed
from eventstreams.producer.producer import Producer
from eventstreams.producer.result import Accepted, GaveUp, Rejected, Result

__all__ = ["Accepted", "GaveUp", "OutboxError", "Producer", "ProducerClosed", "Rejected", "Result"]
