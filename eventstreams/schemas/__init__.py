"""Event schemas at run time: found by URI, compiled, and applied.

`SchemaRepository` reads folders, `SchemaStore` caches compiled schemas for the event loop,
`Validator` reports problems in the words of AJV 6, and `Defaults` fills in defaults. The commands
for authors of schemas are in `schemas/tools/`.

Easy to get wrong: a schema without references shares no objects with other schemas, but all events
share it, so it must not be modified.
"""
