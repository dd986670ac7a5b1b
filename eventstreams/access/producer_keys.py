"""Reads the keys of producers, and the streams to which each may post.

The file holds SHA-256 digests of the keys, so it does not reveal them:

    mediawiki:
      keys_sha256: [5e88…]
      streams: ["mediawiki.*", "resource_change"]
"""

from __future__ import annotations

import hashlib
import hmac
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import msgspec

from eventstreams.config.wording import problem_of
from eventstreams.config.yaml_file import read_yaml
from eventstreams.errors import ConfigError, InvalidToken


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    keys_sha256: list[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]]
    streams: list[Annotated[str, msgspec.Meta(min_length=1)]]
    """Names of streams, in which `*` matches any text."""


class Producer(NamedTuple):
    name: str
    streams: tuple[str, ...]

    def may_post_to(self, stream: str) -> bool:
        return any(fnmatchcase(stream, pattern) for pattern in self.streams)


class Producers:
    """All producers that may post."""

    def __init__(self, by_digest: dict[bytes, Producer]) -> None:
        self._by_digest = by_digest

    def of(self, key: str | None) -> Producer:
        """Return the producer that has this key. Raises InvalidToken."""
        if not key:
            raise InvalidToken("Send a producer key to post events: Authorization: Bearer KEY")
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = None
        for known, producer in self._by_digest.items():
            if hmac.compare_digest(known, digest):
                found = producer
        if found is None:
            raise InvalidToken("Unknown producer key")
        return found


def load_producers(path: Path) -> Producers:
    """Read the file of producer keys. Raises ConfigError with every problem."""
    document: Any = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: expected a mapping of producers' names to settings"])
    problems: list[str] = []
    by_digest: dict[bytes, Producer] = {}
    for name, settings in cast("dict[Any, Any]", document).items():
        try:
            entry = msgspec.convert(settings, _Entry)
        except msgspec.ValidationError as error:
            problems.append(f"{path}: {problem_of(error, str(name), _Entry)}")
            continue
        producer = Producer(str(name), tuple(entry.streams))
        for text in entry.keys_sha256:
            digest = bytes.fromhex(text)
            if digest in by_digest:
                problems.append(f"{path}: {name}: {by_digest[digest].name} has the same key")
            by_digest[digest] = producer
    if problems:
        raise ConfigError(problems)
    return Producers(by_digest)
