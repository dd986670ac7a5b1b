"""Converts events of EventLogging clients, which arrive in URLs, to events for the intake.

EventLogging was Wikimedia's event platform before EventGate. Its clients send a *capsule*, a JSON
object with `schema`, `revision`, `wiki` and `event`, percent-encoded as the query of a URL. Old
installations that nobody can update still do so.

- `capsule` reads a capsule from a query.
- `conversion.Converter` converts a capsule to an event: the capsule's `schema` determines `$schema`
  and `meta.stream`, if the settings list it. It does no input or output.
- `beacon.Beacon` passes what clients send to the intake. Clients do not learn the outcome.
- `log_format.LogFormat` reads a capsule from a line of a raw log, by a format string; `raw` makes
  events from such lines, and from error events.
- `draft3` converts a JSON Schema of draft 3 to a schema of the repository.
- `checks` compares the settings with the catalogue and the schemas.

Easy to get wrong: in these events, `dt` is the time of receipt and `client_dt` is the time at which
something happened. In all other events the producer sets `dt`.
"""
