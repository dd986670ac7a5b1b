"""Every case of the corpus, given to its parser and sent to a gateway with all its parts on.

A parser takes it or refuses it with its own error; the gateway answers well-formed, never with a
fault of its own, and says nothing of a fault in its log.
"""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from eventstreams.access import jwks
from eventstreams.errors import BadSchemaUri, ClientError, ConfigError
from eventstreams.fanout.selector import parse_selector
from eventstreams.intake import document
from eventstreams.model.instant import parse_instant, parse_moment
from eventstreams.model.stream import load_catalogue
from eventstreams.schemas.uri import parse_uri
from eventstreams.settings import load
from eventstreams.web import coding, request
from eventstreams.web.address import Proxies, shortened, site_of
from eventstreams.web.admin import _question
from eventstreams.web.cursor import explain
from tests.hostile import corpus
from tests.hostile.raw import NotWellFormed, answers, exchange
from tests.hostile.sent import SENT, encoded, posted
from tests.hostile.target import Target

LONGEST_S = 5.0
"""Generous: what takes so long holds everybody up."""


def scope(*, query: bytes = b"", path: bytes = b"", headers: Any = ()) -> dict[str, Any]:
    return {
        "query_string": query,
        "raw_path": path,
        "path": path.decode("latin-1"),
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
    }


def _read(name: bytes) -> Callable[[bytes], Any]:
    return lambda case: request.read(scope(query=name + b"=" + encoded(case)), "always")


def _times(case: bytes) -> None:
    text = case.decode("utf-8", "replace")
    parse_instant(text)
    parse_moment(text, 0)
    _read(b"since")(case)


def _numbers(case: bytes) -> None:
    for name in (b"limit", b"max_seconds", b"sample"):
        with contextlib.suppress(ClientError):
            _read(name)(case)
    _question("limit=" + encoded(case).decode())


def _forwarded(case: bytes) -> None:
    for trusted in (("127.0.0.0/8", "::1"), ("0.0.0.0/0", "::/0"), ()):
        for name in (b"x-forwarded-for", b"x-client-ip"):
            client = Proxies(trusted).client(scope(headers=[(name, case)]))
            if client is not None:
                assert len(site_of(client)) <= 64
                assert len(shortened(client)) <= 64


def _bodies(case: bytes) -> None:
    for lenient in (False, True):
        found = document.split(case, events_max=100_000, event_bytes_max=2**20, lenient=lenient)
        for event in _finished(found):
            read = document.read(
                event, bytes_max=2**20, values_max=10_000, depth_max=64, lenient=lenient
            )
            with contextlib.suppress(document.EventProblem):
                _finished(read)


def _finished(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _names(case: bytes) -> None:
    request.stream_names(scope(path=b"/v2/stream/" + case))
    parse_uri(case.decode("latin-1"))


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "ids": lambda case: explain(case.decode("utf-8", "replace")),
    "times": _times,
    "numbers": _numbers,
    "filters": _read(b"filter"),
    "fields": lambda case: parse_selector(None, case.decode("utf-8", "replace"), None),
    "names": _names,
    "queries": lambda case: (
        _question(case.decode("latin-1")),
        request.parse_query(scope(query=case)),
    ),
    "forwarded": _forwarded,
    "encodings": lambda case: coding.choose(
        "always", case.decode("latin-1"), None, is_browser=True
    ),
    "bodies": _bodies,
    "jwks": jwks.parse,
}
REFUSALS = (ClientError, BadSchemaUri)
"""Anything else that is raised fails the test."""


def of(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{n}")
        for name in names
        for n, case in enumerate(corpus.cases(name))
    ]


def test_every_file_of_the_corpus_is_used() -> None:
    assert set(corpus.names()) == SENT.keys() | PARSERS.keys() | {"settings"}


@pytest.mark.parametrize(("name", "case"), of(PARSERS))
def test_a_parser_takes_it_or_refuses_it_and_soon(name: str, case: bytes) -> None:
    began = time.monotonic()
    with contextlib.suppress(ValueError if name == "jwks" else REFUSALS):
        PARSERS[name](case)
    assert time.monotonic() - began < LONGEST_S


@pytest.mark.parametrize("load_it", [load, load_catalogue])
@pytest.mark.parametrize(("name", "case"), of(["settings"]))
def test_a_file_is_taken_or_refused_with_its_name(
    name: str, case: bytes, load_it: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(case)
    began = time.monotonic()
    problems = []
    try:
        load_it(path)
    except ConfigError as error:
        problems = error.problems
    assert all(str(path) in problem for problem in problems)
    assert time.monotonic() - began < LONGEST_S


@pytest.mark.anyio
@pytest.mark.parametrize("name", SENT)
async def test_a_gateway_answers_it_soundly(everything: Target, name: str) -> None:
    await everything.produce({"test": "a" * 5000, "a": {"b": [1, None, "\u2028"]}, "n": 2**63})
    began = time.monotonic()
    for case in corpus.cases(name):
        for sent in SENT[name](case):
            _look(sent, await exchange(everything.port, sent))
    count = len(corpus.cases(name))
    assert time.monotonic() - began < LONGEST_S * count
    await everything.is_unharmed()


def _look(sent: bytes, data: bytes) -> None:
    told = sent[:300]
    try:
        [answer] = answers(data, head=sent.startswith(b"HEAD"))
    except (NotWellFormed, ValueError) as error:
        raise AssertionError(told) from error
    assert answer.status < 500, told
    assert answer.get(b"x-content-type-options") == b"nosniff", told
    assert answer.get(b"x-evil") is None, told
    assert b"Traceback" not in answer.body, told
    if b"/v2/stream/secret" in sent or b"POST /v2/ticket " in sent:
        assert answer.status not in (200, 201), told


@pytest.mark.anyio
async def test_a_body_that_unpacks_to_a_thousand_times_its_size_is_not_kept(
    everything: Target,
) -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    nested = gzip.compress(gzip.compress(b"0" * 10_000_000))
    for body in (bomb, nested, bomb[:-9], bomb + bomb, bomb[:10], b"\x1f\x8b" + b"\0" * 100):
        [answer] = answers(await exchange(everything.port, posted(body, b"Content-Encoding: gzip")))
        assert answer.status in (400, 413)
    await everything.is_unharmed()
