"""Generates synthetic recent changes in the form of Wikimedia's `mediawiki/recentchange` 1.0.0.

`page_created` makes the event of a new page from its recent change.

Wikis, pages and people are fictitious. Every event is marked as such twice: `synthetic` is true,
and `meta.domain` is under `.example`, a name reserved for examples (RFC 2606). Addresses of
anonymous users come from the blocks reserved for documentation (RFC 5737, RFC 3849).
"""

from __future__ import annotations

import html
import random
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

Document = dict[str, Any]
_T = TypeVar("_T")

_KINDS = {"edit": 62, "new": 8, "categorize": 22, "log": 8}
_WIKIS = {"en": 44, "de": 16, "fr": 14, "es": 10, "ja": 8, "sv": 8}
_NAMESPACES = {0: "", 1: "Talk:", 2: "User:", 4: "Wikipedia:", 14: "Category:"}
_NAMESPACE_WEIGHTS = {0: 78, 1: 8, 2: 6, 4: 4, 14: 4}
_PLACES = (
    "Aldermere", "Brückental", "Côte-d'Ambre", "Dunholm", "Elvås", "Fennmark", "Göstasund",
    "Highcombe", "Île Verte", "Kaltenau", "Lago Sereno", "Møllevik", "Nordhafen", "São Brás",
    "Talltjärn", "Velmora", "桜川", "青葉島",
)  # fmt: skip
_SUBJECTS = (
    "Bridge", "Cathedral", "Lighthouse", "Railway station", "Botanical garden", "Observatory",
    "Football Club", "Public library", "Nature reserve", "Film festival", "Ferry", "Town hall",
)  # fmt: skip
_SECTIONS = ("History", "Geography", "Career", "References", "External links", "Early life")
_REMARKS = (
    "", "", "copyedit", "fix typo", "update figures", "add source", "ce", "rm dead link",
    "restore referenced content", "+ image", "wording",
)  # fmt: skip
_PEOPLE = (
    "Ada Quill", "Bertil Nordmark", "Chloé Marchand", "Dr Fern", "Echo Lake", "Fjällräven 7",
    "Gustavo Ribeiro", "Hana Mori", "Inkwell", "Juniper Grey", "Kestrel42", "Marginalia",
)  # fmt: skip
_BOTS = ("ExampleBot", "LinkMenderBot", "TidyBot", "ArchivistBot")
_LOGS = (("delete", "delete"), ("block", "block"), ("move", "move"), ("upload", "upload"))


class _Page(NamedTuple):
    namespace: int
    title: str
    revision: int
    length: int


class RecentChanges:
    """Generates events one by one; equal seeds and times yield equal events."""

    _PAGES_PER_WIKI = 300
    """Pages edited repeatedly. Older ones are dropped, so memory is bounded."""
    _PAGES_AT_START = 60

    def __init__(self, *, stream: str, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - plausible, not secret
        self._stream = stream
        self._revision = 1_100_000_000
        self._rcid = 1_700_000_000
        self._log_id = 150_000_000
        self._pages: dict[str, list[_Page]] = {language: [] for language in _WIKIS}
        for language, pages in self._pages.items():
            for _ in range(self._PAGES_AT_START):
                pages.append(self._make_page(language))

    def event(self, now_ms: int) -> Document:
        """Return the next event, with the given time."""
        language = self._choose(_WIKIS)
        kind = self._choose(_KINDS)
        self._rcid += self._random.randint(1, 3)
        bot = self._random.random() < (0.5 if kind == "categorize" else 0.2)
        change = {
            "edit": self._edit,
            "new": self._new,
            "categorize": self._categorize,
            "log": self._log,
        }[kind](language)
        return self._whole(language, kind, now_ms, bot, change)

    def _whole(
        self, language: str, kind: str, now_ms: int, bot: bool, change: Document
    ) -> Document:
        domain = f"{language}.wikipedia.example"
        server = f"https://{domain}"
        uri = f"{server}/wiki/{quote(change['title'].replace(' ', '_'), safe='/:')}"
        second = datetime.fromtimestamp(now_ms // 1000, UTC).isoformat()[
            : len("2000-01-01T00:00:00")
        ]
        comment = change["comment"]
        return {
            "$schema": "/mediawiki/recentchange/1.0.0",
            "meta": {
                "uri": uri,
                "request_id": self._uuid(),
                "id": self._uuid(),
                "dt": f"{second}.{now_ms % 1000:03}Z",
                "domain": domain,
                "stream": self._stream,
            },
            "synthetic": True,
            "id": self._rcid,
            "type": kind,
            "namespace": change["namespace"],
            "title": change["title"],
            "title_url": uri,
            "comment": comment,
            "timestamp": now_ms // 1000,
            "user": self._user(bot=bot),
            "bot": bot,
            **{key: value for key, value in change.items() if key not in _COMMON},
            "server_url": server,
            "server_name": domain,
            "server_script_path": "/w",
            "wiki": f"{language}wiki",
            "parsedcomment": html.escape(comment),
        }

    def _edit(self, language: str) -> Document:
        page = self._random.choice(self._pages[language])
        length = max(0, page.length + round(self._random.gauss(40, 400)))
        edited = page._replace(revision=self._next_revision(), length=length)
        self._keep(language, edited, page)
        return {
            "namespace": page.namespace,
            "title": page.title,
            "comment": self._comment(),
            "notify_url": f"https://{language}.wikipedia.example/w/index.php"
            f"?diff={edited.revision}&oldid={page.revision}",
            "minor": self._random.random() < 0.15,
            "length": {"old": page.length, "new": length},
            "revision": {"old": page.revision, "new": edited.revision},
        }

    def _new(self, language: str) -> Document:
        page = self._make_page(language)
        self._keep(language, page, None)
        return {
            "namespace": page.namespace,
            "title": page.title,
            "comment": f"Created page about {page.title.rpartition(':')[2]}",
            "notify_url": f"https://{language}.wikipedia.example/w/index.php?oldid={page.revision}",
            "minor": False,
            "patrolled": self._random.random() < 0.4,
            "length": {"old": None, "new": page.length},
            "revision": {"old": None, "new": page.revision},
        }

    def _categorize(self, language: str) -> Document:
        member = self._title(0)
        verb = self._random.choice(("added to", "removed from"))
        subject, place = self._random.choice(_SUBJECTS), self._random.choice(_PLACES)
        plural = f"{subject[:-1]}ies" if subject.endswith("y") else f"{subject}s"
        return {
            "namespace": 14,
            "title": f"{_NAMESPACES[14]}{plural} in {place}",
            "comment": f"[[:{member}]] {verb} category",
            "notify_url": f"https://{language}.wikipedia.example/w/index.php"
            f"?diff={self._next_revision()}",
        }

    def _log(self, language: str) -> Document:
        self._log_id += self._random.randint(1, 5)
        kind, action = self._random.choice(_LOGS)
        namespace = {"block": 2, "upload": 6}.get(kind, 0)
        title = {
            "block": f"User:{self._user(bot=False)}",
            "upload": f"File:{self._random.choice(_PLACES)} {self._random.randint(1, 999)}.jpg",
        }.get(kind) or self._title(namespace)
        comment = self._random.choice(("", "per request", "housekeeping", "test edits"))
        return {
            "namespace": namespace,
            "title": title,
            "comment": comment,
            "log_id": self._log_id,
            "log_type": kind,
            "log_action": action,
            "log_params": self._log_params(kind),
            "log_action_comment": f"{kind}: [[{title}]] on {language}wiki: {comment}".rstrip(": "),
        }

    def _log_params(self, kind: str) -> Document:
        if kind == "move":
            return {"target": self._title(0), "noredir": "0"}
        if kind == "block":
            return {"duration": self._random.choice(("31 hours", "1 week")), "sitewide": True}
        return {}

    def _make_page(self, language: str) -> _Page:
        used = {page.title for page in self._pages[language]}
        namespace = self._choose(_NAMESPACE_WEIGHTS)
        title = self._title(namespace)
        number = 2
        while title in used:
            title = f"{title.removesuffix(f' ({number - 1})')} ({number})"
            number += 1
        return _Page(namespace, title, self._next_revision(), self._random.randint(300, 60_000))

    def _keep(self, language: str, page: _Page, instead_of: _Page | None) -> None:
        pages = self._pages[language]
        if instead_of is not None:
            pages[pages.index(instead_of)] = page
        else:
            pages.append(page)
            del pages[: -self._PAGES_PER_WIKI]

    def _title(self, namespace: int) -> str:
        if namespace == 2:
            return f"User:{self._random.choice(_PEOPLE)}/sandbox"
        subject, place = self._random.choice(_SUBJECTS), self._random.choice(_PLACES)
        return f"{_NAMESPACES.get(namespace, '')}{place} {subject}"

    def _comment(self) -> str:
        remark = self._random.choice(_REMARKS)
        if self._random.random() < 0.4:
            return f"/* {self._random.choice(_SECTIONS)} */ {remark}".rstrip()
        return remark

    def _user(self, *, bot: bool) -> str:
        if bot:
            return self._random.choice(_BOTS)
        chance = self._random.random()
        if chance < 0.12:
            return f"192.0.2.{self._random.randint(1, 254)}"
        if chance < 0.2:
            return f"2001:DB8:0:0:0:0:0:{self._random.randint(1, 65535):X}"
        return self._random.choice(_PEOPLE)

    def _next_revision(self) -> int:
        self._revision += self._random.randint(1, 4)
        return self._revision

    def _uuid(self) -> str:
        """Return a random UUID (version 4 of RFC 9562), without a `uuid.UUID` in between."""
        digits = f"{self._random.getrandbits(128):032x}"
        variant = "89ab"[int(digits[16], 16) % 4]
        return (
            f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
        )

    def _choose(self, weights: dict[_T, int]) -> _T:
        rest = self._random.random() * sum(weights.values())
        for value, weight in weights.items():
            rest -= weight
            if rest < 0:
                return value
        return next(reversed(weights))  # rounding left a rest


_COMMON = ("namespace", "title", "comment")


def page_created(change: Document, *, stream: str) -> Document:
    """Return what `mediawiki/revision/create` 2.0.0 says of the page that `change` says is new.

    The ids are made from those of `change`, so equal changes yield equal events.
    """
    second = change["meta"]["dt"].partition(".")[0] + "Z"
    digits = change["meta"]["id"]
    return {
        "$schema": "/mediawiki/revision/create/2.0.0",
        "meta": {**change["meta"], "id": digits[:-8] + digits[:8], "stream": stream},
        "synthetic": True,
        "dt": second,
        "database": change["wiki"],
        "page_id": change["id"] % 100_000_000,
        "page_title": change["title"].replace(" ", "_"),
        "page_namespace": change["namespace"],
        "page_is_redirect": False,
        "rev_id": change["revision"]["new"],
        "rev_timestamp": second,
        "rev_len": change["length"]["new"],
        "rev_minor_edit": change["minor"],
        "performer": {"user_text": change["user"], "user_is_bot": change["bot"]},
        "comment": change["comment"],
        "parsedcomment": change["parsedcomment"],
    }
