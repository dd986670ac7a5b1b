"""Checks that the listed EventLogging schemas have a matching stream and schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eventstreams.errors import SchemaError, SchemaNotFound
from eventstreams.legacy.conversion import stream_of, title_of, uri_of
from eventstreams.model.stream_config import StreamConfigs
from eventstreams.schemas.fields import field_schema
from eventstreams.schemas.repository import SchemaRepository

_ADDED = ("dt", "client_dt", "recvFrom", "uuid", "schema")
"""Fields that every converted event has, in addition to `$schema`, `meta` and `event`."""


def stream_problems(versions: Mapping[str, str], configs: StreamConfigs) -> Iterator[str]:
    """Yield the problems of the streams of listed schemas, each with the path of its setting."""
    for name in versions:
        stream, title = stream_of(name), title_of(name)
        config = configs.get(stream)
        where = f"legacy.schemas.{name}"
        if config is None:
            yield f"{where}: its stream {stream} is not in the catalogue"
        elif config.schema_title != title:
            given = config.schema_title or "missing"
            yield f"{where}: schema_title of its stream {stream} must be {title}, but is {given}"
        elif config.topics[0] != stream:
            yield (
                f"{where}: the topic of its stream must be {stream}, without a prefix, "
                f"but is {config.topics[0]}"
            )


def schema_problems(versions: Mapping[str, str], repository: SchemaRepository) -> Iterator[str]:
    """Yield the problems of the listed schemas themselves. Reads files."""
    for name, version in versions.items():
        where, uri = f"legacy.schemas.{name}", uri_of(name, version)
        try:
            schema = repository.get(uri)
        except SchemaNotFound:
            yield f"{where}: there is no schema {uri}{_there(title_of(name), repository)}"
            continue
        except SchemaError as error:
            yield f"{where}: {uri} cannot be used: {error}"
            continue
        if schema.document.get("additionalProperties") is not False:
            continue
        missing = [each for each in _ADDED if field_schema(schema.document, (each,)) is None]
        if missing:
            fields = ", ".join(missing)
            yield (
                f"{where}: {uri} allows no field that it does not declare, so no event fits it: "
                f"declare {fields}, or refer to the fragment of the capsule"
            )


def _there(title: str, repository: SchemaRepository) -> str:
    versions = sorted(uri.version for uri in repository.uris() if uri.title == title)
    if not versions:
        return ""
    return f"; there are versions {', '.join(str(each) for each in versions)}"
