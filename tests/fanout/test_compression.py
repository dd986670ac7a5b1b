"""Shared compression: clients join and leave at any time and can decode all their bytes."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
import time
import zlib
from itertools import pairwise

import cramjam
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstreams.fanout.compression import (
    EMPTY,
    Checksum,
    CompressionWindows,
    EncodedBody,
    EncodedResponse,
    Encoding,
    SharedStream,
    apart,
    apart_in_steps,
    begin,
    finished,
)

every_encoding = pytest.mark.parametrize("encoding", Encoding, ids=lambda e: e.value)
COMPRESSED = (Encoding.GZIP, Encoding.ZSTD)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_LAST_BLOCK = b"\1\0\0"
LONGER_THAN_ANY_BLOCK = random.Random(1).randbytes(150_000)


def events(first: int, count: int) -> bytes:
    """Return similar events, so that compression can refer to earlier ones."""
    return b"".join(
        b'event: message\ndata: {"title":"Page %d","user":"%x"}\nid: [{"offset":%d}]\n\n'
        % (n % 7, n * 7919, n)
        for n in range(first, first + count)
    )


some_events = st.builds(events, st.integers(0, 50), st.integers(1, 20))
bodies = st.one_of(
    some_events,
    some_events,
    some_events,
    st.builds(events, st.integers(0, 50), st.just(900)),
    st.binary(min_size=1, max_size=40),
    st.builds(lambda byte: byte * 400, st.binary(min_size=1, max_size=1)),
    st.just(LONGER_THAN_ANY_BLOCK),
)
clients = st.integers(0, 3)
streams = st.sampled_from((0, 0, 0, 1))
batches = st.tuples(st.just("batch"), streams, bodies)
joins = st.tuples(st.just("join"), clients, streams)
steps = st.one_of(
    batches,
    batches,
    joins,
    joins,
    st.tuples(st.just("begin"), bodies),
    st.tuples(st.just("take"), clients, bodies),
    st.tuples(st.just("leave"), clients),
    # A batch that one client does not receive, or only after it has left the stream.
    st.tuples(st.just("batch"), streams, bodies, clients, st.booleans()),
    st.tuples(st.just("end"), clients),
)


class Client:
    """Decodes incrementally. All bytes sent so far must be decodable immediately."""

    def __init__(self, encoding: Encoding, first: bytes) -> None:
        self.encoding = encoding
        self.joined: SharedStream | None = None
        self.content = b""
        self.expected = b""
        self._inflate = zlib.decompressobj(wbits=31)
        self._inflated = b""
        self.response, content = begin(encoding, first)
        self.events = 0
        self.get(content, first)

    def take(self, piece: EncodedBody, body: bytes) -> None:
        self.get(piece.content, body)
        self.response.took(piece)
        self.events += piece.events
        self.assert_counted()

    def assert_counted(self) -> None:
        assert self.response.sent == (len(self.content), self.events)

    def get(self, content: bytes, body: bytes) -> None:
        self.content += content
        self.expected += body
        if self.encoding is Encoding.GZIP:
            self._inflated += self._inflate.decompress(content)
            assert self._inflated == self.expected
        elif self.encoding is Encoding.ZSTD:
            assert unzstd(self.content + ZSTD_LAST_BLOCK) == self.expected
        else:
            assert self.content == self.expected

    def leave(self, *, missed_last: bool = False) -> None:
        if self.joined is not None:
            self.response.leave(missed_last=missed_last)
            self.joined = None
            self.assert_counted()

    def end(self) -> None:
        self.leave()
        self.content += self.response.finish()
        self.assert_counted()
        assert decode(self.encoding, self.content) == self.expected


def unzstd(content: bytes) -> bytes:
    return bytes(cramjam.zstd.decompress(content))


def decode(encoding: Encoding, content: bytes) -> bytes:
    """Return the content of a complete response. Raises if its end is wrong."""
    if encoding is Encoding.GZIP:
        return gzip.decompress(content)
    return unzstd(content) if encoding is Encoding.ZSTD else content


class Clients:
    """Two cohorts, and one to four clients that join them."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.streams = (
            SharedStream(encoding, CompressionWindows()),
            SharedStream(encoding, CompressionWindows()),
        )
        self.going: list[Client] = []

    def begin(self, body: bytes) -> None:
        if len(self.going) < 4:
            self.going.append(Client(self.encoding, body))

    def take(self, which: int, body: bytes) -> None:
        client = self._client(which)
        client.leave()
        client.take(apart(self.encoding, body, len(body)), body)

    def join(self, which: int, stream: int) -> None:
        client = self._client(which)
        client.leave()
        client.joined = self.streams[stream]
        client.response.join(client.joined)

    def batch(
        self, stream: int, body: bytes, misses: int | None = None, late: bool = False
    ) -> None:
        shared = self.streams[stream]
        missing = None if misses is None else self._client(misses)
        piece = finished(shared.compress(body, len(body)))
        for client in self.going:
            if client.joined is shared:
                if client is missing:
                    client.leave(missed_last=True)
                    if late:
                        client.take(piece, body)
                else:
                    client.get(piece.content, body)
                    client.events += piece.events

    def leave(self, which: int) -> None:
        self._client(which).leave()

    def end(self, which: int) -> None:
        if len(self.going) > 1:
            client = self._client(which)
            client.end()
            self.going.remove(client)

    def _client(self, which: int) -> Client:
        return self.going[which % len(self.going)]


@every_encoding
@example([("batch", 0, events(0, 5)), ("join", 0, 0), ("batch", 0, events(5, 5))])
@example([("join", 0, 0), *[("batch", 0, events(n, 1)) for n in range(3)], ("batch", 0, b"-", 0)])
@settings(deadline=None)
@given(st.lists(steps, min_size=12, max_size=40))
def test_each_client_decodes_all_bytes_at_once(
    encoding: Encoding, walk: list[tuple[str, object]]
) -> None:
    here = Clients(encoding)
    here.begin(b":ok\n\n")
    for name, *arguments in walk:
        getattr(here, name)(*arguments)
    for client in here.going:
        client.end()


def a_long_response(encoding: Encoding) -> tuple[bytes, bytes]:
    """Return a response with pieces of all kinds, and its content."""
    client = Client(encoding, b":ok\n\n")
    here = Clients(encoding)
    here.going.append(client)
    for n in range(6):
        here.take(0, events(n * 1000, 800))
        here.take(0, LONGER_THAN_ANY_BLOCK)
        here.join(0, n % 2)
        for k in range(20):
            here.batch(n % 2, events(n * 1000 + 800 + k, 1))
    client.end()
    return client.content, client.expected


@pytest.mark.parametrize("encoding", COMPRESSED, ids=lambda e: e.value)
def test_the_usual_command_decodes_a_response(encoding: Encoding) -> None:
    command = shutil.which(encoding.value)
    if command is None:
        pytest.skip(f"there is no {encoding.value} command")
    content, body = a_long_response(encoding)
    done = subprocess.run([command, "-dc"], input=content, capture_output=True, check=True)
    assert done.stdout == body
    assert not done.stderr


def test_an_incomplete_gzip_response_is_detected() -> None:
    content, _ = a_long_response(Encoding.GZIP)
    with pytest.raises(EOFError):
        gzip.decompress(content[:-1])


def test_zstd_frames_need_no_more_memory_than_browsers_allow() -> None:
    content, _ = a_long_response(Encoding.ZSTD)
    frames = content.split(ZSTD_MAGIC)[1:]
    assert len(frames) > 12
    for frame in frames:
        assert frame[0] == 0, "no single segment, size, checksum or dictionary"
        exponent, mantissa = divmod(frame[1], 8)
        assert (1 << 10 + exponent) * (8 + mantissa) // 8 <= 1 << 20


@pytest.mark.parametrize("encoding", COMPRESSED, ids=lambda e: e.value)
def test_batches_are_compressed_with_earlier_batches(encoding: Encoding) -> None:
    stream = SharedStream(encoding, CompressionWindows())
    sizes = [len(finished(stream.compress(events(n, 1))).content) for n in range(10)]
    assert sizes[-1] < sizes[0] / 2


@every_encoding
def test_only_the_batch_after_a_join_is_a_keyframe(encoding: Encoding) -> None:
    stream = SharedStream(encoding, CompressionWindows())
    due: list[bool] = []
    for n in range(6):
        if n in (2, 3):
            begin(encoding, b":ok\n\n")[0].join(stream)
        due.append(stream.keyframe_due)
        finished(stream.compress(events(n, 1)))
    assert due == [True, False, True, True, False, False]


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_a_large_body_is_encoded_in_short_steps(encoding: Encoding) -> None:
    body = random.Random(1).randbytes(300_000).hex().encode()
    stream = SharedStream(encoding, CompressionWindows())
    for make in (lambda: apart_in_steps(encoding, body), lambda: stream.compress(body)):
        steps = make()
        yields = 0
        try:
            while True:
                next(steps)
                yields += 1
        except StopIteration as done:
            piece: EncodedBody = done.value
        assert yields >= len(body) // 65_536
        assert unpacked(encoding, piece) == body


def unpacked(encoding: Encoding, piece: EncodedBody) -> bytes:
    if encoding is Encoding.GZIP:
        return zlib.decompressobj(wbits=-15).decompress(piece.content)
    content = piece.content.removeprefix(ZSTD_LAST_BLOCK)
    return unzstd(content + ZSTD_LAST_BLOCK)


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_no_client_can_join_while_a_batch_is_encoded(encoding: Encoding) -> None:
    stream = SharedStream(encoding, CompressionWindows())
    steps = stream.compress(b"abc" * 100_000)
    assert stream.admits
    next(steps)
    assert not stream.admits
    finished(steps)
    stream.keyframe_at -= 60
    assert stream.admits


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_a_member_that_leaves_during_encoding_can_continue(encoding: Encoding) -> None:
    stream = SharedStream(encoding, CompressionWindows())
    going = Client(encoding, b":ok")
    going.joined = stream
    going.response.join(stream)
    steps = stream.compress(b"abc" * 100_000)
    next(steps)
    going.leave(missed_last=True)
    stream.expect_member()  # as its cohort does when it has no members left
    finished(steps)
    assert stream.keyframe_due
    going.take(apart(encoding, b"more", 1), b"more")
    going.end()


@every_encoding
def test_an_independent_piece_fits_every_response(encoding: Encoding) -> None:
    piece = apart(encoding, events(0, 30))
    for first in (b":ok\n\n", events(0, 100)):
        client = Client(encoding, first)
        for _ in range(3):
            client.take(piece, events(0, 30))
        client.end()


@every_encoding
def test_a_joined_response_accepts_no_independent_pieces(encoding: Encoding) -> None:
    stream = SharedStream(encoding, CompressionWindows())
    response, _ = begin(encoding, b":ok\n\n")
    response.join(stream)
    with pytest.raises(AssertionError):
        response.took(apart(encoding, b":\n"))
    with pytest.raises(AssertionError):
        response.join(stream)
    with pytest.raises(AssertionError):
        response.finish()
    response.leave()
    with pytest.raises(AssertionError):
        response.leave()


def test_encodings_do_not_mix() -> None:
    response, _ = begin(Encoding.GZIP, b":ok\n\n")
    with pytest.raises(AssertionError):
        response.took(apart(Encoding.ZSTD, b":\n"))
    with pytest.raises(AssertionError):
        response.join(SharedStream(Encoding.ZSTD, CompressionWindows()))


def test_the_final_length_is_modulo_four_gibibytes() -> None:
    length = (1 << 32) + 5
    piece = apart(Encoding.GZIP, b"x")
    huge = EncodedBody(Encoding.GZIP, piece.content, EMPTY, Checksum(0x01020304, length))
    assert EncodedResponse(huge, 0).finish()[-8:] == b"\4\3\2\1\5\0\0\0"


@pytest.mark.parametrize("encoding", COMPRESSED, ids=lambda e: e.value)
def test_only_the_most_recently_used_streams_keep_windows(encoding: Encoding) -> None:
    windows = CompressionWindows(2)
    first, second, third = (SharedStream(encoding, windows) for _ in range(3))
    for stream in (first, second, first, third):
        finished(stream.compress(events(0, 1)))
    assert [s.keyframe_due for s in (first, second, third)] == [False, True, False]
    third.expect_member()
    finished(second.compress(events(0, 1)))
    assert [s.keyframe_due for s in (first, second, third)] == [False, False, True]


@pytest.mark.parametrize("encoding", COMPRESSED, ids=lambda e: e.value)
def test_frequent_joins_do_not_make_every_batch_a_keyframe(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = SharedStream(encoding, CompressionWindows())
    assert stream.admits
    finished(stream.compress(events(0, 1)))
    assert not stream.admits
    now += 1.5
    assert stream.admits
    stream.expect_member()
    assert stream.admits, "the next batch is a keyframe anyway"
    finished(stream.compress(events(0, 1)))
    assert not stream.admits


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_checksums_of_parts_combine_to_that_of_the_whole(parts: list[bytes]) -> None:
    """Each part comes from a stream in which other bytes preceded it."""
    whole = EMPTY
    for n, part in enumerate(parts):
        since = EMPTY.over(bytes([n]) * n)
        whole = whole.extended(since, since.over(part))
    assert whole == Checksum(zlib.crc32(b"".join(parts)), sum(map(len, parts)))


@given(st.binary(max_size=50), st.lists(st.integers(0, 200_000), min_size=2, max_size=5))
def test_the_checksum_of_any_part_can_extend_another(before: bytes, cuts: list[int]) -> None:
    run = LONGER_THAN_ANY_BLOCK + bytes(50_000)
    for start, end in pairwise(sorted(cuts)):
        joined = EMPTY.over(before).extended(EMPTY.over(run[:start]), EMPTY.over(run[:end]))
        assert joined.crc == zlib.crc32(before + run[start:end])


def test_checksums_are_correct_beyond_32_bit_lengths() -> None:
    """Compares one large extension with many small ones."""
    far = EMPTY.over(b"far")
    at_once = far.extended(EMPTY, Checksum(0, 1 << 34)).crc
    for _ in range(1 << 14):
        far = far.extended(EMPTY, Checksum(0, 1 << 20))
    assert far.crc == at_once


@pytest.mark.parametrize("encoding", COMPRESSED, ids=lambda e: e.value)
def test_a_window_dropped_during_encoding_is_not_counted(encoding: Encoding) -> None:
    windows = CompressionWindows(2)
    first, dropped, third = (SharedStream(encoding, windows) for _ in range(3))
    finished(first.compress(events(0, 1)))
    steps = dropped.compress(b"abc" * 100_000)
    next(steps)
    dropped.expect_member()
    finished(steps)
    finished(third.compress(events(0, 1)))
    assert not first.keyframe_due, "there was room for two windows"
