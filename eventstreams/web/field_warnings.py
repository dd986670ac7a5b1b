"""Warns of fields in `filter` and `fields` that the schemas of the streams do not declare, or that
`filter` compares with values which they cannot have, or takes for conditions that they cannot be.

A warning never changes the response otherwise: schemas are open, and may be unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from eventstreams.config.reloader import CatalogueWatcher
from eventstreams.errors import SchemaError
from eventstreams.filters.selector import Selector
from eventstreams.schemas.store import SchemaStore
from eventstreams.schemas.undeclared import Schema, mistyped, no_condition, undeclared
from eventstreams.web.answers import Headers, printable

HEADER = b"x-eventstreams-warning"
_WARNINGS_MAX = 3
_STREAMS_MAX = 20
"""Requests of more streams get no warnings."""
_PATIENCE_S = 0.5
"""How long reading schemas may delay a stream; later requests use what was read."""


class FieldWarnings:
    def __init__(self, catalogue_watcher: CatalogueWatcher, schemas: SchemaStore) -> None:
        self._catalogue_watcher = catalogue_watcher
        self._schemas = schemas

    async def of(self, streams: Sequence[str], selector: Selector | None) -> list[str]:
        """Return up to three warnings, each one line."""
        paths = () if selector is None else selector.paths
        if not paths or len(streams) > _STREAMS_MAX:
            return []
        schemas = await self._read(streams)
        if not schemas or selector is None:
            return []
        found = (
            *(undeclared(schemas, path) for path in paths),
            *(mistyped(schemas, *compared) for compared in selector.comparisons),
            *(no_condition(schemas, path) for path in selector.conditions),
        )
        return [warning for warning in found if warning is not None][:_WARNINGS_MAX]

    async def _read(self, streams: Sequence[str]) -> list[Schema]:
        """Return the newest schema of each stream, or none if one of the schemas is unknown."""
        known = self._catalogue_watcher.catalogue.streams
        titles = [known[name].schema_title if name in known else None for name in streams]
        schemas: list[Schema] = []
        with contextlib.suppress(SchemaError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                for title in dict.fromkeys(titles):
                    if title is None:
                        return []
                    schemas.append((await self._schemas.latest(title)).schema.document)
                return schemas
        return []


def headers_of(warnings: Sequence[str]) -> Headers:
    """Return the header that carries warnings, if there are any: printable ASCII, one line."""
    return [(HEADER, b"; ".join(map(printable, warnings)))] if warnings else []
