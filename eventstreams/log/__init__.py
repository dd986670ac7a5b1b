"""Stores events: ordered, durable, partitioned.

`base.py` is the contract; `memory.py` is its simplest implementation and the reference; `sqlite/`
is the embedded log and `kafka/` is Apache Kafka. One test suite runs against all of them.
"""
