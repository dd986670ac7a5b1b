"""The OpenAPI document, made anew when what it describes has changed."""

from __future__ import annotations

from typing import Any

from eventstreams.declarations import Declarations
from eventstreams.errors import SchemaError
from eventstreams.model.stream import Catalogue
from eventstreams.schemas.store import SchemaStore
from eventstreams.web import describe


class Spec:
    def __init__(self, declarations: Declarations, schemas: SchemaStore) -> None:
        self._declarations = declarations
        self._schemas = schemas
        self._made: tuple[Catalogue, dict[str, Any], dict[str, Any]] | None = None

    @property
    def catalogue(self) -> Catalogue:
        return self._declarations.catalogue

    async def openapi(self) -> dict[str, Any]:
        catalogue = self.catalogue
        schemas = await self._of_streams(catalogue)
        made = self._made
        if made is None or made[0] is not catalogue or made[1] != schemas:
            self._made = made = (catalogue, schemas, describe.openapi(catalogue, schemas))
        return made[2]

    async def _of_streams(self, catalogue: Catalogue) -> dict[str, dict[str, Any]]:
        """The newest schema of each title that a stream names; those that can't be had are left
        out."""
        found: dict[str, dict[str, Any]] = {}
        for stream in catalogue.streams.values():
            title = stream.schema_title
            if title is None or title in found:
                continue
            try:
                found[title] = (await self._schemas.latest(title)).schema.document
            except SchemaError:
                continue
        return found
