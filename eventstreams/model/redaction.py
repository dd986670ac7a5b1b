"""Removes fields from the events of certain pages before clients see them, live or in history.

This follows Wikimedia's `mediawiki_redacted_pages`. An event belongs to a page if `meta.domain` is
the page's domain and one of the title fields is its title, in any spelling that MediaWiki accepts.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

TITLE_FIELDS = ("page_title", "page.page_title", "title")
_INVISIBLE = re.compile("[\u200e\u200f\u202a-\u202e]")
_SPACES = re.compile("[\t-\r _\x85\xa0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_AROUND_COLON = re.compile("_?:_?")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream's setting; see docs/streams.md."""

    domain: str
    titles: tuple[str | int | float | bool, ...]
    """YAML reads a page called 404 as a number."""
    remove: tuple[str, ...]
    """Paths of fields. A path continues in every element of a list."""
    title_fields: tuple[str, ...] = TITLE_FIELDS


class Redaction:
    """The rules of a topic. Immutable; equal if the rules are equal."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(dict.fromkeys(rules))
        self._made = [
            (
                rule.domain.lower(),
                frozenset(form for title in rule.titles for form in _forms(title)),
                [tuple(path.split(".")) for path in rule.title_fields],
                [tuple(path.split(".")) for path in rule.remove],
            )
            for rule in self.rules
        ]

    def apply(self, document: Any) -> bool:
        """Remove the fields in place; return whether any rule applied.

        A list holds several events, each of which is redacted.
        """
        if isinstance(document, list):
            hits = [self.apply(item) for item in cast("list[Any]", document)]
            return any(hits)
        if not isinstance(document, dict):
            return False
        event = cast("dict[str, Any]", document)
        domain = _at(event, ("meta", "domain"))
        found = False
        for of_domain, titles, title_fields, paths in self._made:
            if not isinstance(domain, str) or domain.lower() != of_domain:
                continue
            its = (_at(event, path) for path in title_fields)
            if any(form in titles for title in its if title is not None for form in _forms(title)):
                found = True
                for path in paths:
                    _remove(event, path)
        return found

    def __eq__(self, other: object) -> bool:
        return self.rules == other.rules if isinstance(other, Redaction) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.rules)


class Redactions:
    """The current redactions of all topics that have any."""

    def __init__(self, by_topic: Mapping[str, Redaction] | None = None) -> None:
        self._by_topic = dict(by_topic or {})

    def of(self, topic: str) -> Redaction | None:
        return self._by_topic.get(topic)

    def replace(self, by_topic: Mapping[str, Redaction]) -> bool:
        """Replace all redactions; return whether any changed. Equal ones keep their identity."""
        if self._by_topic == by_topic:
            return False
        old = self._by_topic
        self._by_topic = {
            topic: old[topic] if old.get(topic) == redaction else redaction
            for topic, redaction in by_topic.items()
        }
        return True


def _forms(title: Any) -> tuple[str, str]:
    """Return the forms of a title; two titles are equal if they share one.

    The names of character references are case-sensitive, but titles are compared without regard to
    case. Therefore references are decoded both as they are written and in lower case.
    """
    text = str(title).lower() if isinstance(title, bool) else str(title)
    return _normal(html.unescape(text)), _normal(html.unescape(text.lower()))


def _normal(text: str) -> str:
    """Return the normal form of a title: MediaWiki's, in lower case as at Wikimedia.

    MediaWiki's rules (MediaWikiTitleCodec), after character references were decoded: text is NFC;
    direction marks are removed; each run of white space and underscores becomes one underscore,
    and is removed at either end and around the colon of a namespace; a colon at the start and a
    fragment are removed. Only the wiki's configuration says which prefixes are namespaces, so the
    first colon always counts as the end of one. Two pages whose titles differ only in a space there
    both match.
    """
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    text = _SPACES.sub("_", text.partition("#")[0]).strip("_")
    text = _AROUND_COLON.sub(":", text.removeprefix(":").strip("_"), count=1)
    return unicodedata.normalize("NFC", text.lower())


def _at(event: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = event
    for name in path:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(name)
    return value


def _remove(value: Any, path: tuple[str, ...]) -> None:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            _remove(item, path)
    elif isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if len(path) == 1:
            fields.pop(path[0], None)
        else:
            _remove(fields.get(path[0]), path[1:])
