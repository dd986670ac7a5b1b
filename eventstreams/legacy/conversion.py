"""From a capsule to an event of the repository, after EventLogging's own converter.

The schema `Test` of a capsule becomes `$schema: /analytics/legacy/test/VERSION` and the stream
`eventlogging_Test`. Only schemas that the operator lists are converted, because anyone can send
capsules, and the streams of these schemas are all that they can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

from eventstreams.intake.document import EventProblem
from eventstreams.model.stream_config import StreamConfigs

_CLIENT_ONLY = ("clientValidated", "isTruncated")
"""Fields that clients add for themselves. No schema has them."""
_USER_AGENT = "http.request_headers.user-agent"
_VALUE_MAX = 400
"""Characters of a user agent that are kept, as for those of headers."""
_NAME_MAX = 63
"""Characters of a schema's name in EventLogging."""


class Reception(NamedTuple):
    """What is known of how a capsule came, beside what is in it."""

    dt: str
    """When it was received: ISO 8601, in UTC."""
    receiver: str | None = None
    """The host that received it; None: what the capsule says, if anything."""
    user_agent: str | None = None
    """From a log; the header of a request is filled in by the intake."""
    uuid: str | None = None
    """An id that is the same whenever the same capsule is converted; None: there is none."""
    meta: Mapping[str, str] = MappingProxyType({})
    """Further fields of `meta`; what is missing is filled in by the intake."""


def stream_of(name: str) -> str:
    """The stream of a schema of EventLogging. Its topic has the same name, without a prefix."""
    return f"eventlogging_{name}"


def title_of(name: str) -> str:
    """The title of the schema in the repository."""
    return f"analytics/legacy/{name.lower()}"


def uri_of(name: str, version: str) -> str:
    return f"/{title_of(name)}/{version}"


class Converter:
    """Converts capsules of listed schemas."""

    def __init__(
        self, versions: Mapping[str, str], *, configs: Callable[[], StreamConfigs]
    ) -> None:
        """`versions`: for each listed schema the version in the repository, such as `1.0.0`."""
        self._versions = versions
        self._configs = configs

    def convert(self, capsule: Mapping[str, Any], reception: Reception) -> dict[str, Any]:
        """Return the event. Raises EventProblem where the capsule's schema is not listed."""
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
        for ours in ("$schema", "meta", "http"):  # the client has no say in these
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
            message = "the capsule has no field schema, which names its schema"
            raise EventProblem("CapsuleError", message, message)
        if not isinstance(name, str):
            message = "the capsule's field schema is not text"
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
        """Whether the stream's settings leave this field as it is by default."""
        config = self._configs().get(stream)
        return config is None or _USER_AGENT not in config.enrich
