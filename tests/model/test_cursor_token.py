"""A token has exactly the content of the JSON of a position, in fewer bytes, or it is refused."""

from __future__ import annotations

import base64
import itertools
import json
import math
import random
import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstreams.errors import InvalidAssignment
from eventstreams.model import cursor_token
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import PartitionCursor, Position
from eventstreams.model.steps import finished
from tests.support.strategies import epochs, offsets, positions, timestamps_ms, topic_names

NOW_MS = 1_769_860_800_123
STREAMS = [
    f"{thing}-{what}"
    for thing in ("page", "revision", "user", "category", "image", "article", "job", "file")
    for what in ("create", "delete", "visibility-change", "tags-change")
]
TOPICS = [f"{centre}.mediawiki.{name}" for name in STREAMS for centre in ("eqiad", "codfw")]


def encoded(position: Position) -> str:
    made = position.encode_token()
    assert made is not None
    return made.decode("ascii")


def marks_of(position: Position) -> tuple[PartitionCursor, ...]:
    columns = position.partitions, position.offsets, position.timestamps, position.epochs
    rows = zip(*columns, strict=True)
    return tuple(PartitionCursor(*row) for row in rows)


@st.composite
def many_partitions(draw: st.DrawFn) -> Position:
    """Draw positions in topics with more partitions, whose values are similar or different."""
    names = draw(st.lists(topic_names, min_size=1, max_size=4, unique=True))
    parts = [Partition(n, i) for n in names for i in range(draw(st.integers(1, 12)))]
    size = len(parts)
    near = st.integers(10**9, 10**9 + 10**6)
    return Position(
        tuple(draw(st.permutations(parts)) if draw(st.booleans()) else parts),
        tuple(draw(st.lists(near | offsets, min_size=size, max_size=size))),
        tuple(draw(st.lists(timestamps_ms | st.just(0), min_size=size, max_size=size))),
        draw(st.none() | st.lists(epochs, min_size=size, max_size=size).map(tuple)),
    )


any_position = positions() | many_partitions()


@given(any_position)
def test_what_is_encoded_is_read_back_exactly_and_in_order(position: Position) -> None:
    assert parse_last_event_id(encoded(position)) == marks_of(position)


@given(any_position)
def test_json_and_token_of_a_position_parse_to_the_same_marks(position: Position) -> None:
    as_json = position.encode_json().decode()
    assert parse_last_event_id(encoded(position)) == parse_last_event_id(as_json)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("extreme", [(0, 2**63 - 1), (0, 0), (2**63 - 1, 2**63 - 1)])
def test_extreme_values_are_encoded_exactly(size: int, extreme: tuple[int, int]) -> None:
    parts = tuple(Partition("a", n) for n in range(size))
    values = tuple(itertools.islice(itertools.cycle(extreme), size))
    times = tuple(-(2**63) if value else value for value in values)
    position = Position(parts, values, times)
    assert parse_last_event_id(encoded(position)) == marks_of(position)


@given(any_position, st.data())
def test_a_writer_makes_the_tokens_of_its_position_after_any_walk(
    position: Position, data: st.DataObject
) -> None:
    columns = position.partitions, position.offsets, position.timestamps, position.epochs
    writer = finished(cursor_token.writer(*columns))
    assert writer is not None
    for _ in range(data.draw(st.integers(1, 12))):
        index = data.draw(st.integers(0, len(position.partitions) - 1))
        near = position.offsets[index] + data.draw(st.integers(0, 9))
        offset = data.draw(offsets) if data.draw(st.booleans()) else min(near, 2**63 - 1)
        stamp = data.draw(timestamps_ms)
        epoch = data.draw(epochs)
        position = position.at(position.partitions[index], offset, stamp, epoch)
        writer.move(index, offset, stamp, epoch)
        assert writer.token().decode() == encoded(position)


@given(any_position, st.data())
def test_a_changed_character_is_refused_or_changes_nothing(
    position: Position, data: st.DataObject
) -> None:
    text = encoded(position)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255))
    try:
        marks = parse_last_event_id(text[:at] + other + text[at + 1 :])
    except InvalidAssignment:
        assert other != text[at]
    else:
        assert marks == marks_of(position)


def test_every_change_of_one_character_of_a_token_is_refused() -> None:
    text = encoded(alike(3))
    for at, byte in itertools.product(range(len(text)), range(256)):
        if chr(byte) != text[at] and not (at == 0 and chr(byte).isspace()):
            with pytest.raises(InvalidAssignment):
                parse_last_event_id(text[:at] + chr(byte) + text[at + 1 :])


@given(any_position, st.data())
def test_a_token_cut_short_is_refused(position: Position, data: st.DataObject) -> None:
    text = encoded(position)
    with pytest.raises(InvalidAssignment):
        parse_last_event_id(text[: data.draw(st.integers(0, len(text) - 1))])


@given(any_position)
def test_space_around_a_token_does_not_matter(position: Position) -> None:
    assert parse_last_event_id(f" {encoded(position)}\n") == marks_of(position)


def sealed(body: bytes) -> str:
    """Return a token with a valid checksum and any content."""
    whole = body + zlib.crc32(body).to_bytes(4, "big")
    return "v1." + base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def deflated(raw: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(raw) + deflate.flush()


def varint(value: int) -> bytes:
    return cursor_token._varint(value)


def of_head(raw: bytes, values: bytes = b"\x01") -> str:
    head = deflated(raw)
    return sealed(varint(len(head)) + head + values)


FAULTS: dict[str, tuple[str, str]] = {
    "another version": ("v3.AAAA", "version v3 is not supported, only v1 and v2"),
    "no version": ("v1", "it has no version"),
    "no version but text": ("very", "it has no version"),
    "no base64": ("v1.$$$$", "is not base64url"),
    "the other base64": ("v1.++++", "the canonical form of base64url"),
    "not ASCII": ("v1.é", "is not base64url"),
    "padding": (sealed(b"aa") + "=", "the canonical form of base64url"),
    "nothing": ("v1.", "damaged or truncated"),
    "a checksum alone": (sealed(b""), "damaged or truncated"),
    "a head longer than all": (sealed(b"\x70a"), "its head is truncated"),
    "a number without end": (sealed(b"\xff" * 30), "a number in it is truncated"),
    "no deflate stream": (sealed(b"\x02\xff\xff\x01"), "cannot be inflated"),
    "a bomb": (of_head(b"\0" * 50_000_000), "inflates to more than"),
    "an open stream": (sealed(b"\x02" + deflated(b"a" * 99)[:2]), "cut or followed by other"),
    "no topics": (of_head(b"\0"), "names no partition"),
    "too many topics": (of_head(varint(10_001)), "names no partition, or more"),
    "a topic of nothing": (of_head(b"\x01\0a"), "without partitions"),
    "too many partitions": (of_head(b"\x01" + varint(10_001)), "or more than 10000"),
    "a huge count": (of_head(b"\x01" + varint(2**60)), "or more than 10000"),
    "a cut head": (of_head(b"\x01\x05\0"), "truncated"),
    "an empty name": (of_head(b"\x01\x01\0"), "or an empty name"),
    "two names for one": (of_head(b"\x01\x01\0a\xffb"), "more or fewer names"),
    "a name that is no text": (of_head(b"\x01\x01\0\xc3\x28"), "not UTF-8"),
    "a huge number": (of_head(b"\x01\x01" + varint(2**65) + b"a"), "64 bits"),
    "no values": (of_head(b"\x01\x01\0a", b""), "start of its values is missing"),
    "values without their 1": (of_head(b"\x01\x01\0a", b"\0\1"), "start of its values is missing"),
    "cut values": (of_head(b"\x01\x01\0a", b"\x01\x02"), "values are truncated"),
    "a negative offset": (of_head(b"\x01\x01\0a", bytes([0x40, 0x01])), "is negative"),
    "values beyond 64 bits": (of_head(b"\x01\x01\0a", b"\x01\xfe" + b"\0" * 40), "64 bits"),
    "more values": (of_head(b"\x01\x01\0a", b"\x01\0\0\0"), "more bytes after its values"),
    "too long": ("v1." + "A" * 600_000, "longer than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_tokens_are_refused_with_the_reason(fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(InvalidAssignment) as refused:
        parse_last_event_id(text)
    assert message in refused.value.message
    json.dumps(refused.value.body())


def test_a_partition_that_is_named_twice_is_refused() -> None:
    twice = Position((Partition("a", 0), Partition("b", 1), Partition("a", 0)), (1, 2, 3), (4,) * 3)
    with pytest.raises(InvalidAssignment, match="a/0 appears twice"):
        parse_last_event_id(encoded(twice))


@example(b"")
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: of_head(b, b[::-1]).encode()))
def test_garbage_with_a_valid_checksum_is_an_invalid_assignment(
    body: bytes,
) -> None:
    for text in (sealed(body), body.decode("latin-1"), of_head(b"\x01\x04\0\0\0\0a", body)):
        try:
            assert parse_last_event_id(text)
        except InvalidAssignment as error:
            json.dumps(error.body())


def test_positions_that_do_not_fit_in_a_token_stay_json() -> None:
    def at_zero(parts: Sequence[Partition]) -> Position:
        return Position(tuple(parts), (0,) * len(parts), (0,) * len(parts))

    most = at_zero([Partition("a", n) for n in range(cursor_token.PARTITIONS_MAX)])
    assert len(parse_last_event_id(encoded(most))) == cursor_token.PARTITIONS_MAX
    for parts in (
        [Partition("a", n) for n in range(cursor_token.PARTITIONS_MAX + 1)],
        [Partition("a" * 90_000 + str(n), 0) for n in range(3)],
    ):
        position = at_zero(parts)
        assert position.encode_token() is None
        assert position.encode() == position.encode_json()


def alike(size: int, *, spread: float = 0.01, seconds: float = 5, seed: int = 1) -> Position:
    """Return a position in one topic whose ten-digit offsets differ by up to the share `spread`,
    and whose last records are within some seconds."""
    random_ = random.Random(seed)
    return Position(
        tuple(Partition("eqiad.mediawiki.page-create", n) for n in range(size)),
        tuple(int(5e9 * (1 + random_.uniform(-spread, spread))) for _ in range(size)),
        tuple(NOW_MS - random_.randint(0, int(seconds * 1000)) for _ in range(size)),
    )


def in_pairs(seed: int = 1) -> Position:
    """Return a position in 64 topics of two partitions, with different traffic."""
    random_ = random.Random(seed)
    bases = [random_.randint(10**9, 10**10 - 1) for _ in TOPICS]
    return Position(
        tuple(Partition(topic, n) for topic in TOPICS for n in range(2)),
        tuple(int(b * (1 + random_.uniform(-0.01, 0.01))) for b in bases for _ in range(2)),
        tuple(NOW_MS - random_.randint(0, 5000) for _ in range(2 * len(TOPICS))),
    )


def base64_bytes(bits: float) -> float:
    return bits / 6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("spread", "seconds"), [(0.05, 10), (0.02, 5), (0.01, 5), (1e-4, 3), (1e-5, 1)]
)
def test_a_token_of_one_topic_is_little_longer_than_its_entropy(
    spread: float, seconds: float, seed: int
) -> None:
    position = alike(128, spread=spread, seconds=seconds, seed=seed)
    uncertain = 128 * (math.log2(2 * spread * 5e9) + math.log2(seconds * 1000))
    assert len(encoded(position)) <= base64_bytes(uncertain) + 110
    assert len(encoded(position)) < len(position.encode_json()) / 10


@pytest.mark.parametrize(
    "made",
    [
        lambda seed: alike(70, seed=seed),
        lambda seed: alike(128, spread=2e-7, seconds=1, seed=seed),
    ],
    ids=["70 partitions a percent apart", "128 in near lockstep"],
)
def test_seventy_similar_partitions_fit_in_600_bytes(
    made: Callable[[int], Position],
) -> None:
    assert max(len(encoded(made(seed))) for seed in range(20)) <= 600


@pytest.mark.parametrize("seed", range(5))
def test_a_token_of_many_topics_holds_their_names_and_little_more(seed: int) -> None:
    position = in_pairs(seed)
    values = 64 * (math.log2(9e9) + math.log2(0.02 * 5e9)) + 128 * math.log2(5000)
    names = 8 * len(deflated("\xff".join(TOPICS).encode("latin-1")))
    assert len(encoded(position)) <= base64_bytes(values + names) + 200
    assert len(encoded(position)) < len(position.encode_json()) / 8


def test_outliers_do_not_lengthen_the_codes_of_other_partitions() -> None:
    position = alike(128)
    odd = position.at(position.partitions[5], 3, 0).at(position.partitions[9], 2**60, 1)
    assert len(encoded(odd)) <= len(encoded(position)) + 60


@settings(max_examples=30)
@given(many_partitions())
def test_a_token_is_url_safe_as_it_is(position: Position) -> None:
    assert encoded(position).isascii()
    assert set(encoded(position)[3:]) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


OLD_TOKEN = "v1.CmNiZGRgSvyfBACqnBPsnnsqnBPsnnqHUCbe5fSK"


def test_tokens_without_epochs_keep_their_old_form() -> None:
    position = Position((Partition("a", 0), Partition("b", 1)), (42, 7), (NOW_MS, 0))
    assert encoded(position) == OLD_TOKEN
    assert parse_last_event_id(OLD_TOKEN) == marks_of(position)


@given(any_position)
def test_only_tokens_with_epochs_have_version_2(position: Position) -> None:
    holds = any(epoch != NO_EPOCH for epoch in position.epochs)
    assert encoded(position).startswith("v2." if holds else "v1.")


def test_a_known_epoch_takes_a_few_bits_of_a_token() -> None:
    parts = tuple(Partition("eqiad.mediawiki.page-create", n) for n in range(128))
    values, times = (5_000_000_000,) * 128, (NOW_MS,) * 128
    without = Position(parts, values, times)
    spread = Position(parts, values, times, tuple(20 + n % 8 for n in range(128)))
    assert len(encoded(spread)) <= len(encoded(without)) + 128
