"""Finds the route of an event: its schema, its stream, and the topic to append to.

A stream must be declared, and accepts only events of the schema title that its `schema_title`
setting names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from eventstreams.errors import BadSchemaUri, SchemaError, SchemaNotFound
from eventstreams.intake.document import EventProblem
from eventstreams.intake.enrichment import Enrichment, Sender
from eventstreams.intake.message_key import MessageKey
from eventstreams.model.stream_config import StreamConfig, StreamConfigs
from eventstreams.schemas.store import Compiled, SchemaStore

_ROUTES_MAX = 10_000
"""Limits the cache, because clients choose the names of streams that a pattern declares."""
_NEVER_PREFIXED = "eventlogging_"
_NAME_MAX = 200
"""Maximum characters of a client's text that are quoted in a message."""


class Route(NamedTuple):
    """The route of all events of one schema in one stream."""

    stream: StreamConfig
    schema: Compiled
    topic: str
    enrichment: Enrichment
    key: MessageKey | None
    """Makes the keys of records; None if records have no key."""


class EventRouter:
    def __init__(
        self,
        *,
        configs: Callable[[], StreamConfigs],
        schemas: SchemaStore,
        topic_prefix: str | None,
        routes_max: int = _ROUTES_MAX,
    ) -> None:
        """Set the collaborators. `routes_max` limits the cache of routes."""
        self._configs = configs
        self._schemas = schemas
        self._topic_prefix = topic_prefix
        self._routes_max = routes_max
        self._routes: dict[tuple[str, str], Route] = {}
        self._of = configs()

    def label(self, document: Any) -> str:
        """Return the metrics label of an event's stream. Clients cannot create new labels."""
        config = self.declared(document)
        return "undeclared" if config is None else config.label

    def declared(self, document: Any) -> StreamConfig | None:
        """Return the stream that the event names, or None if it is not declared."""
        meta: Any = cast("dict[str, Any]", document).get("meta") if _is_dict(document) else None
        name: Any = cast("dict[str, Any]", meta).get("stream") if _is_dict(meta) else None
        return self._configs().get(name) if isinstance(name, str) else None

    def known(self, stream: str, schema_uri: str) -> Route | None:
        """Return the cached route, or None if there is none or the catalogue has changed since."""
        configs = self._configs()
        if configs is not self._of:
            self._routes.clear()
            self._of = configs
        return self._routes.get((stream, schema_uri))

    async def route(self, stream: str, schema_uri: str) -> Route:
        """Return the route of a stream and schema URI.

        Raises EventProblem if the stream is not declared or does not accept the schema, or if the
        schema cannot be loaded.
        """
        configs = self._configs()
        config = configs.get(stream)
        if config is None:
            meant = configs.meant(stream)
            hint = f"; use the name {meant}" if meant else ""
            message = f"Stream {_cut(stream)} is not declared{hint}"
            raise _unauthorized(message, "the stream is not declared")
        if config.schema_title is None:
            message = f"Stream {stream} has no schema_title setting"
            raise _unauthorized(message, "the stream has no schema_title setting")
        try:
            schema = await self._schemas.get(schema_uri)
        except BadSchemaUri as error:
            raise _unloadable(schema_uri, "not /title/MAJOR.MINOR.PATCH") from error
        except SchemaNotFound as error:
            raise _unloadable(schema_uri, "the schema does not exist") from error
        except SchemaError as error:
            raise _unloadable(schema_uri, str(error).splitlines()[0]) from error
        if schema.schema.title != config.schema_title:
            takes = f"which takes {config.schema_title}"
            raise _unauthorized(
                f"Schema {schema.schema.title} is not allowed in stream {stream}, {takes}",
                f"the schema is not allowed in the stream, {takes}",
            )
        route = Route(
            config,
            schema,
            self._topic(config),
            Enrichment(schema.schema, config),
            MessageKey(config.message_key_fields) if config.message_key_fields else None,
        )
        if configs is self._of:
            if len(self._routes) >= self._routes_max:
                self._routes.clear()
            self._routes[stream, schema_uri] = route
        return route

    def _topic(self, config: StreamConfig) -> str:
        if self._topic_prefix is not None and not config.name.startswith(_NEVER_PREFIXED):
            prefixed = self._topic_prefix + config.name
            if prefixed in config.topics:
                return prefixed
        return config.topics[0]


def schema_uri_of(document: dict[str, Any], sender: Sender) -> str:
    """Return the schema URI of an event; the sender's default is filled in. Raises EventProblem."""
    uri = document.get("$schema")
    if uri is None and sender.schema_uri is not None:
        uri = document["$schema"] = sender.schema_uri
    if uri is None:
        raise _missing("$schema")
    if not isinstance(uri, str):
        raise EventProblem(
            "MissingFieldError", "$schema is not a string", "$schema is not a string"
        )
    return uri


def stream_of(document: dict[str, Any], sender: Sender) -> str:
    """Return the stream of an event; the sender's default is filled in. Raises EventProblem."""
    meta: Any = document.get("meta")
    if meta is None and sender.stream is not None:
        meta = document["meta"] = {}
    stream: Any = None
    if isinstance(meta, dict):
        fields = cast("dict[str, Any]", meta)
        stream = fields.get("stream")
        if stream is None and sender.stream is not None:
            stream = fields["stream"] = sender.stream
    if stream is None:
        raise _missing("meta.stream")
    if not isinstance(stream, str) or not stream:
        message = "meta.stream is not the name of a stream"
        raise EventProblem("MissingFieldError", message, message)
    if sender.may_post_to is not None and not sender.may_post_to(stream):
        message = f"The producer key does not allow stream {_cut(stream)}"
        raise EventProblem(
            "ForbiddenStreamError", message, "the producer key does not allow the stream"
        )
    return stream


def _missing(field: str) -> EventProblem:
    message = f"Field(s) {field} were missing from event and could not be extracted."
    return EventProblem("MissingFieldError", message, message)


def _unloadable(uri: str, why: str) -> EventProblem:
    message = f"Failed loading schema at {_cut(uri)}: {why}"
    return EventProblem("EventSchemaLoadError", message, "the event's schema cannot be loaded")


def _unauthorized(message: str, rule: str) -> EventProblem:
    return EventProblem("UnauthorizedSchemaForStreamError", message, rule)


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_MAX else text[:_NAME_MAX] + "…"


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
