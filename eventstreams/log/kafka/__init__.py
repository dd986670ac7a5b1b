"""The log in Apache Kafka.

`log.py` implements the contract. `brokers.py` keeps the connections and finds the leaders.
`follower.py` and `fetch.py` read; `writer.py` and `appender.py` write. `protocol.py` and
`records.py` encode and decode requests and records, without I/O. Only `errors.py` translates
Kafka's errors into ours.
"""
