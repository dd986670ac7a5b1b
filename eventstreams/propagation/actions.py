"""The templates of a rule's actions, and the values that they render to.

`render` is pure: it turns an event into a Request, Produce or Repost, which `http.py` and
`producing.py` carry out. A dry run prints the same values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from eventstreams.propagation.expression import Context
from eventstreams.propagation.functions import TemplateError, as_text
from eventstreams.propagation.matching import MISSING
from eventstreams.propagation.template import Template, Text, text_of
from eventstreams.propagation.trigger import chain_of, meta_of

TIMEOUT_S = 420.0
"""Seven minutes, as in change-propagation."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_KEPT_IN_URI = "".join(map(chr, [*range(0x20), *range(0x21, 0x80)]))
_BAD_IN_URI = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to make. Header names are in lower case."""

    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    redirects_max: int

    @property
    def host(self) -> str:
        """The host and port of the URI, which identify a circuit."""
        return urlsplit(self.uri).netloc.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class Produce:
    """Events to post through the intake, which validates them."""

    events: tuple[Mapping[str, Any], ...]
    chain: str
    """The value of `triggered_by` for events whose schema has this field and whose template does
    not.
    """


@dataclass(frozen=True, slots=True)
class Repost:
    """An event to append, unchanged except for its stream, to one partition of the stream's
    topic.
    """

    stream: str
    partition: int
    event: bytes


Action = Request | Produce | Repost


@dataclass(frozen=True, slots=True)
class HttpAction:
    """The template of a request."""

    method: str
    uri: Text
    headers: tuple[tuple[str, Template], ...] = ()
    query: Template | None = None
    body: Template | None = None
    timeout_s: float = TIMEOUT_S
    redirects_max: int = 0

    def render(self, context: Context, *, user_agent: str, trigger: str | None = None) -> Request:
        """Return the request for an event. Raises TemplateError.

        `trigger` is the chain of events that led here, if it is longer than the event itself.
        """
        event = context["message"]
        headers = {"user-agent": user_agent}
        for name, template in self.headers:
            value = template.render(context)
            if value is not MISSING and value is not None:
                headers[name] = _header(name, as_text(value))
        request_id = meta_of(event).get("request_id")
        if isinstance(request_id, str) and request_id:
            headers["x-request-id"] = _header("x-request-id", request_id)
        headers["x-triggered-by"] = _header(
            "x-triggered-by", trigger if trigger is not None else chain_of(event)
        )
        body = MISSING if self.body is None else self.body.render(context)
        data = None if body is MISSING or body is None else _encoded(body, headers)
        return Request(
            self.method, self._uri(context), headers, data, self.timeout_s, self.redirects_max
        )

    def _uri(self, context: Context) -> str:
        uri = text_of(self.uri, context)
        if self.query is not None:
            query = self.query.render(context)
            fields = cast("dict[str, Any]", query) if isinstance(query, dict) else {}
            pairs = [(key, as_text(value)) for key, value in fields.items() if value is not None]
            if pairs:
                uri += ("&" if "?" in uri else "?") + urlencode(pairs)
        scheme, separator, rest = uri.partition("://")
        host, slash, path = rest.partition("/")
        uri = f"{scheme}{separator}{host}{slash}{_encode_rest(path)}"
        try:
            parts = urlsplit(uri)
            valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            valid = False
        if not valid or _BAD_IN_URI.search(uri):
            raise TemplateError(
                f"the URI of the request is not an absolute http(s) URL: {uri[:200]!r}"
            )
        return uri


@dataclass(frozen=True, slots=True)
class ProduceAction:
    """The template of an event, or a list of events, to produce."""

    events: Template

    def render(self, context: Context) -> Produce:
        """Return the events. Raises TemplateError."""
        value = self.events.render(context)
        events = cast("list[Any]", value) if isinstance(value, list) else [value]
        for event in events:
            if not isinstance(event, dict):
                raise TemplateError("the event to produce is not an object")
        if not events:
            raise TemplateError("there is no event to produce")
        return Produce(tuple(events), chain_of(context["message"]))


@dataclass(frozen=True, slots=True)
class PartitionAction:
    """Re-posts an event to the partition that one of its fields selects, for the job queue.

    The partition is `partitions[value]` for the value at `key`, or else `default`.
    """

    stream: Text
    key: tuple[str, ...]
    partitions: Mapping[str, int]
    default: int

    def render(self, context: Context) -> Repost:
        """Return the event with its new stream. Raises TemplateError."""
        event: dict[str, Any] = dict(context["message"])
        value: Any = event
        for name in self.key:
            value = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None
        stream = text_of(self.stream, context)
        if not stream:
            raise TemplateError("the stream to re-post to is empty")
        event["meta"] = {**meta_of(event), "stream": stream}
        number = self.partitions.get(as_text(value), self.default)
        return Repost(stream, number, to_json(event))


ActionTemplate = HttpAction | ProduceAction | PartitionAction


def _encode_rest(path: str) -> str:
    """Percent-encode only spaces and characters outside ASCII, as HTTP clients do."""
    return quote(path, safe=_KEPT_IN_URI, errors="replace")


def _header(name: str, value: str) -> str:
    value = value.strip()
    if _BAD_IN_HEADER.search(value):
        raise TemplateError(f"the value of the header {name} contains a control character")
    return value


def is_header_name(name: str) -> bool:
    """Return whether HTTP allows a header of this name."""
    return bool(_HEADER_NAME.fullmatch(name))


def _encoded(body: Any, headers: dict[str, str]) -> bytes:
    """Return the bytes of a body: JSON, or a form if the content type is that of forms."""
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded" and isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        return urlencode([(key, as_text(value)) for key, value in fields.items()]).encode()
    headers.setdefault("content-type", "application/json")
    return to_json(body)


def to_json(value: Any) -> bytes:
    """Return a rendered value as JSON. Raises TemplateError."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_default)
        return text.encode()
    except (UnicodeEncodeError, RecursionError, ValueError) as error:
        raise TemplateError(f"the value cannot be written as JSON: {error}") from error


def _default(value: Any) -> Any:
    if value is MISSING:
        return None
    raise ValueError(f"{type(value).__name__} is not JSON")
