"""An asynchronous client of an intake, with batches, retries and an outbox on disk.

`Producer` is the interface. It puts events into a `Queue` over memory or an `Outbox`, from which
`Delivery` posts them; each event ends as `Accepted`, `Rejected` or `GaveUp`.

Easy to get wrong: an event may reach the log twice, when a response is lost. Consumers recognise
duplicates by `meta.id`.
"""

from eventstreams.errors import OutboxError, ProducerClosed
from eventstreams.producer.producer import Producer
from eventstreams.producer.result import Accepted, GaveUp, Rejected, Result

__all__ = ["Accepted", "GaveUp", "OutboxError", "Producer", "ProducerClosed", "Rejected", "Result"]
