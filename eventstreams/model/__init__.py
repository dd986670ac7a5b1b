"""Values and formats: events, frames, positions, ids, timestamps, streams. No I/O, no asyncio.

`Position` is where a reader stands; encoded, it is the `id:` that a client carries. The offset is
the only coordinate: an id, a tail and the log use the same number.
"""
