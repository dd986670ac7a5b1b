"""Follows another gateway, and appends the events that it sends to our log.

A relay gives a laptop, a laboratory or a far data centre its own history, filters and fan-out; a
tree of gateways that relay each other reaches more clients than one host holds. Data takes this
path:

    upstream's response -> SseReader -> Translation -> batches -> Bookmark.append -> our log

- `Upstream` determines the requests: URL, parameters, headers.
- `Progress` records how far the relay has come, in the upstream's coordinates: the id to resume
  with, and the next offset of each partition of the upstream. It distinguishes new events from
  those that our log has already. It is pure, and its encoding is the state of the bookmark.
- `Routes` maps an event's stream and topic to a topic of ours.
- `Translation` turns the frames of one connection into records, and advances a copy of the
  progress.
- `Relay` owns the connections and the bookmark, and reconnects after a pause.

Easy to get wrong: the progress that counts is the one in the bookmark. The
progress in memory is ahead of it while a batch is being appended, so after any error it is
discarded and read again.
"""
