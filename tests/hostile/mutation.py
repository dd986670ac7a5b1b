"""Generates malformed requests from valid ones. Equal seeds yield equal requests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.hostile import corpus
from tests.hostile.requests import EVERY
from tests.hostile.sent import SENT, STREAM, get, head, posted
from tests.support.intake import TEST

_EVENT = b'{"$schema":"/test/event/1.0.0","meta":{"stream":"%b"},"test":"x"}' % TEST.encode()
SOUND = [
    get(STREAM + b"?max_seconds=0.01&limit=1&filter=event.test%20==%20'x'", b"Last-Event-ID: []"),
    head(STREAM + b"?since=-1h&fields=test,meta.dt&sample=0.5", b"Accept-Encoding: gzip;q=0.5"),
    get(b"/v2/explain?streams=" + TEST.encode() + b"&filter=event.test.startsWith('x')"),
    get(
        b"/v2/cursor?id=%5B%7B%22topic%22%3A%22a%22%2C%22partition%22%3A0%2C%22offset%22%3A1%7D%5D"
    ),
    get(b"/v2/admin/clients?sort=bytes&limit=10", b"Authorization: Bearer aaaa.bbbb.cccc"),
    get(b"/v2/ticket", b"Authorization: Bearer aaaa.bbbb.cccc", method=b"POST"),
    get(b"/v1/stream-configs/" + TEST.encode() + b"?constraints=a=b"),
    get(b"/v1/schemas/test/event/1.0.0", b'If-None-Match: "a"'),
    get(
        b"/v2/ui/live.js", b"Range: bytes=0-9", b"If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT"
    ),
    posted(b"[" + _EVENT + b"]", b"X-Client-IP: 192.0.2.1"),
    posted(_EVENT, b"Expect: 100-continue", query=b"?hasty=true"),
    get(b"/v1/events", b"Transfer-Encoding: chunked", b"Content-Type: text/plain", method=b"POST")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(_EVENT), _EVENT),
]
_BYTES = [b"\0", b"\r", b"\n", b"\r\n", b"\x7f", b"\xff", b" ", b"\t", b":", b"%", b"&", b",", b"/"]
_BYTES += [
    b"%00",
    b"%0d%0a",
    b"%ff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"9" * 30,
    b"a" * 5000,
    b"[",
]

Mutation = Callable[[random.Random, bytes], bytes]


def _put(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(_BYTES) + data[at:]


def _exchange(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _drop(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 8) :]


def _double(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[:at], *[lines[at]] * rng.randint(2, 20), *lines[at + 1 :]])


def _swap(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    rng.shuffle(lines)
    return b"\r\n".join(lines)


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(SOUND)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


_MUTATIONS: list[Mutation] = [_put, _exchange, _drop, _double, _swap, _splice]
_SHORT = 20_000


def _made_by_hand() -> list[bytes]:
    found = [case.data for _, case in EVERY]
    for name, requests in SENT.items():
        found += [sent for case in corpus.cases(name) for sent in requests(case)]
    return [sent for sent in found if len(sent) < _SHORT]


def malformed(seed: int, count: int) -> Iterator[bytes]:
    """Half of the requests are from the corpus, sometimes modified."""
    rng = random.Random(seed)
    by_hand = _made_by_hand()
    for n in range(count):
        data = rng.choice(by_hand if n % 2 else SOUND)
        for _ in range(rng.randint(n % 2 == 0, 3)):
            data = rng.choice(_MUTATIONS)(rng, data) or b"\0"
        yield data
