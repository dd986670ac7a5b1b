"""The intake: turns a posted body into events, and reports one outcome for each event.

`document.py` splits and parses a body, `EventRouter` finds the schema and stream of an event,
`Enrichment` fills in missing fields, `Intake` validates and appends, and `outcome.py` writes the
answer. Rejected events become error events. Every step yields to the event loop
(`eventstreams.turns`).

Easy to get wrong: a valid event is not yet accepted. It is accepted when the log has stored it.
"""
