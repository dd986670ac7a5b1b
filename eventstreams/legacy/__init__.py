"""EventLogging clients: what they send in a URL becomes events that the intake validates.

EventLogging was the event platform of Wikimedia before EventGate. Its clients send a *capsule*, a
JSON object with `schema`, `revision`, `wiki` and `event`, percent-encoded as the query of a URL.
Old installations that nobody can update still do.

- `capsule` reads a capsule from a query.
- `conversion.Converter` turns a capsule into an event: its `$schema` and `meta.stream` follow from
  the capsule's `schema`, if the settings list that. It does no input or output.
- `beacon.Beacon` gives what clients send to the intake. No client learns what becomes of its event.
- `log_format.LogFormat` reads a capsule from a line of a raw log, by a format string; `raw` makes
  events of such lines, and of error events.
- `draft3` turns a JSON Schema of draft 3 into one of the repository.
- `checks` compares the settings with the catalogue and the schemas.

What a reader would get wrong: `dt` of such an event is when it was received. The time at which
something happened is `client_dt`. Elsewhere `dt` is the producer's to say.
"""
