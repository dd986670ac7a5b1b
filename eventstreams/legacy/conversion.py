"""Converts capsules to events of the repository, as EventLogging's own converter does.

The schema `Test` of a capsule becomes `$schema: /analytics/legacy/test/VERSION` and the stream
`eventlogging_Test`. Anyone can send capsules, so only schemas that the operator lists are
converted, and capsules can reach only the streams of these schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

from eventstreams.intake.document import EventProblem
from eventstreams.model.stream_config import StreamConfigs

_CLIENT_ONLY = ("clientValidated", "isTruncated")
"""Fields that clients add for their own use. No schema declares them."""
_USER_AGENT = "http.request_headers.user-agent"
_VALUE_MAX = 400
"""Maximum characters kept of a user agent, as for headers."""
_NAME_MAX = 63
"""Maximum characters of a schema's name in EventLogging."""


class Reception(NamedTuple):
    """How a capsule was received, apart from its contents."""

    dt: str
    """The time of receipt, ISO 8601 in UTC."""
    receiver: str | None = None
    """The host that received the capsule; None to use the value in the capsule, if any."""
    user_agent: str | None = None
    """The user agent according to a log. The intake fills in the header of a request."""
    uuid: str | None = None
    """An id that is the same each time the same capsule is converted, or None."""
    meta: Mapping[str, str] = MappingProxyType({})
    """Additional fields of `meta`; the intake fills in those that are missing."""


def stream_of(name: str) -> str:
    """Return the stream of an EventLogging schema. Its topic has the same name, without a
    prefix."""
    return f"eventlogging_{name}"


def title_of(name: str) -> str:
    """Return the title of the schema in the repository."""
    return f"analytics/legacy/{name.lower()}"


def uri_of(name: str, version: str) -> str:
    return f"/{title_of(name)}/{version}"


class Converter:
    """Converts capsules of listed schemas."""

    def __init__(
        self, versions: Mapping[str, str], *, configs: Callable[[], StreamConfigs]
    ) -> None:
        """Set `versions`: the repository version, such as `1.0.0`, of each listed schema."""
        self._versions = versions
        self._configs = configs

    def convert(self, capsule: Mapping[str, Any], reception: Reception) -> dict[str, Any]:
        """Return the event of a capsule. Raises EventProblem if the capsule's schema is not
        listed."""
        name = self._name(capsule)
        stream = stream_of(name)
        event: dict[str, Any] = {
            "$schema": uri_of(name, self._versions[name]),
            "meta": {"stream": stream, **reception.meta},
        }
        kept = {key: value for key, value in capsule.items() if key not in _CLIENT_ONLY}
        user_agent = reception.user_agent
        if isinstance(kept.get("userAgent"), str):
            user_agent = kept.pop("userAgent")
        for ours in ("$schema", "meta", "http"):  # clients must not set these
            kept.pop(ours, None)
        event |= kept
        event["uuid"] = reception.uuid or kept.get("uuid") or str(uuid4())
        event["dt"] = reception.dt
        event["client_dt"] = kept.get("client_dt") or kept.get("dt") or reception.dt
        if reception.receiver is not None:
            event["recvFrom"] = reception.receiver
        if user_agent and self._may_keep_user_agent(stream):
            event["http"] = {"request_headers": {"user-agent": user_agent[:_VALUE_MAX]}}
        return event

    def _name(self, capsule: Mapping[str, Any]) -> str:
        name = capsule.get("schema")
        if name is None:
            message = "the capsule has no field `schema`, which names its schema"
            raise EventProblem("CapsuleError", message, message)
        if not isinstance(name, str):
            message = "the capsule's field `schema` is not a string"
            raise EventProblem("CapsuleError", message, message)
        if name not in self._versions:
            listed = ", ".join(sorted(self._versions))
            shown = name if len(name) <= _NAME_MAX else name[:_NAME_MAX] + "…"
            raise EventProblem(
                "UnlistedSchemaError",
                f"legacy.schemas does not list the schema {shown}; it lists {listed}",
                "legacy.schemas does not list the schema",
            )
        return name

    def _may_keep_user_agent(self, stream: str) -> bool:
        """Return whether the stream's settings leave this field unchanged by default."""
        config = self._configs().get(stream)
        return config is None or _USER_AGENT not in config.enrich
