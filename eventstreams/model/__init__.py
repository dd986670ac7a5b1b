"""Values and formats: events, frames, positions, ids, timestamps, streams. No I/O, no asyncio.

A `Position` says which record of each partition a reader gets next; encoded, it is the `id:` of an
event. The offset is the only coordinate: an id, a tail and the log use the same number.
"""
