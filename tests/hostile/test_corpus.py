"""Every case of the corpus is given to its parser, and sent to a gateway with all parts enabled.

A parser accepts it or raises its own error. The gateway sends a well-formed response, never an
internal error, and logs no error.
"""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from eventstreams.access import key_sets
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.validation import load
from eventstreams.errors import BadSchemaUri, ClientError, ConfigError
from eventstreams.filters.selector import parse_selector
from eventstreams.intake import document
from eventstreams.model.steps import finished
from eventstreams.model.timestamp import parse_moment, parse_timestamp
from eventstreams.schemas.uri import parse_uri
from eventstreams.web import coding, request
from eventstreams.web.address import Proxies, shortened, site_of
from eventstreams.web.admin import _question
from eventstreams.web.cursor import explain
from eventstreams.web.query import Query
from tests.hostile import corpus
from tests.hostile.raw import NotWellFormed, answers, exchange
from tests.hostile.sent import SENT, encoded, posted
from tests.support.target import Target

LONGEST_S = 5.0
"""A limit on processor time for what takes milliseconds; waiting does not count."""


def scope(*, query: bytes = b"", path: bytes = b"", headers: Any = ()) -> dict[str, Any]:
    return {
        "query_string": query,
        "raw_path": path,
        "path": path.decode("latin-1"),
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
    }


def reading(**of_scope: Any) -> Generator[None, None, request.StreamRequest]:
    asked = scope(**of_scope)
    return request.reading(asked, Query(asked), "always")


def _read(name: bytes) -> Callable[[bytes], Any]:
    return lambda case: finished(reading(query=name + b"=" + encoded(case)))


def _times(case: bytes) -> None:
    text = case.decode("utf-8", "replace")
    parse_timestamp(text)
    parse_moment(text, 0)
    _read(b"since")(case)


def _numbers(case: bytes) -> None:
    for name in (b"limit", b"max_seconds", b"sample"):
        with contextlib.suppress(ClientError):
            _read(name)(case)
    _question(Query(scope(query=b"limit=" + encoded(case))))


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


def _queries(case: bytes) -> None:
    with contextlib.suppress(ClientError):
        _question(Query(scope(query=case)))
    finished(reading(query=case))


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "ids": lambda case: explain(case.decode("utf-8", "replace")),
    "times": _times,
    "numbers": _numbers,
    "filters": _read(b"filter"),
    "fields": lambda case: parse_selector(None, case.decode("utf-8", "replace"), None),
    "names": _names,
    "queries": _queries,
    "forwarded": _forwarded,
    "encodings": lambda case: coding.choose(
        "always", case.decode("latin-1"), None, is_browser=True
    ),
    "bodies": _bodies,
    "jwks": key_sets.parse,
}
REFUSALS = (ClientError, BadSchemaUri)
"""Other exceptions fail the test."""


def of(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{n}")
        for name in names
        for n, case in enumerate(corpus.cases(name))
    ]


def test_every_file_of_the_corpus_is_used() -> None:
    assert set(corpus.names()) == SENT.keys() | PARSERS.keys() | {"settings"}


@pytest.mark.parametrize(("name", "case"), of(PARSERS))
def test_parsers_accept_or_refuse_the_corpus_quickly(name: str, case: bytes) -> None:
    began = time.thread_time()
    with contextlib.suppress(ValueError if name == "jwks" else REFUSALS):
        PARSERS[name](case)
    assert time.thread_time() - began < LONGEST_S


@pytest.mark.parametrize("load_it", [load, load_catalogue])
@pytest.mark.parametrize(("name", "case"), of(["settings"]))
def test_files_are_accepted_or_refused_by_name(
    name: str, case: bytes, load_it: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(case)
    began = time.thread_time()
    problems = []
    try:
        load_it(path)
    except ConfigError as error:
        problems = error.problems
    assert all(str(path) in problem for problem in problems)
    assert time.thread_time() - began < LONGEST_S


@pytest.mark.anyio
@pytest.mark.parametrize("name", SENT)
async def test_a_gateway_answers_the_corpus_safely(everything: Target, name: str) -> None:
    await everything.produce({"test": "a" * 5000, "a": {"b": [1, None, "\u2028"]}, "n": 2**63})
    began = time.process_time()  # the gateway runs in this process
    for case in corpus.cases(name):
        for sent in SENT[name](case):
            _look(sent, await exchange(everything.port, sent))
    count = len(corpus.cases(name))
    assert time.process_time() - began < LONGEST_S * count
    await everything.is_unharmed()


def _look(sent: bytes, data: bytes) -> None:
    reported = sent[:300]
    try:
        [answer] = answers(data, head=sent.startswith(b"HEAD"))
    except (NotWellFormed, ValueError) as error:
        raise AssertionError(reported) from error
    assert answer.status < 500, reported
    assert answer.get(b"x-content-type-options") == b"nosniff", reported
    assert answer.get(b"x-evil") is None, reported
    assert b"Traceback" not in answer.body, reported
    if b"/v2/stream/secret" in sent or b"POST /v2/ticket " in sent:
        assert answer.status not in (200, 201), reported


@pytest.mark.anyio
async def test_a_decompression_bomb_is_not_stored(
    everything: Target,
) -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    nested = gzip.compress(gzip.compress(b"0" * 10_000_000))
    for body in (bomb, nested, bomb[:-9], bomb + bomb, bomb[:10], b"\x1f\x8b" + b"\0" * 100):
        [answer] = answers(await exchange(everything.port, posted(body, b"Content-Encoding: gzip")))
        assert answer.status in (400, 413)
    await everything.is_unharmed()
