"""Ids are encoded positions: each is read back as it was, and invalid ids are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from eventstreams.errors import InvalidAssignment
from eventstreams.model.cursor_token import PARTITIONS_MAX
from eventstreams.model.epochs import NO_EPOCH
from eventstreams.model.event import Partition
from eventstreams.model.last_event_id import parse_last_event_id, read_last_event_id
from eventstreams.model.position import (
    EARLIEST,
    JSON_BYTES_MAX,
    LATEST,
    Cursor,
    PartitionCursor,
    Position,
    before_end,
    topics_of,
)
from tests.support.strategies import documents, epochs, positions, timestamps_ms

P = Partition("a", 0)


def parse(document: Any) -> tuple[PartitionCursor | str, ...]:
    return parse_last_event_id(json.dumps(document))


def entry(**fields: Any) -> PartitionCursor | str:
    [mark] = parse([{"topic": "a", "partition": 0, **fields}])
    return mark


@given(positions())
def test_what_is_encoded_is_read_back(position: Position) -> None:
    columns = position.partitions, position.offsets, position.timestamps, position.epochs
    expected = zip(*columns, strict=True)
    assert parse_last_event_id(position.encode().decode()) == tuple(
        PartitionCursor(*e) for e in expected
    )


@given(positions())
def test_an_id_is_one_compact_line_of_ascii_in_the_upstream_shape(position: Position) -> None:
    encoded = position.encode_json()
    document = [
        {"topic": p.topic, "partition": p.number, "offset": offset, "timestamp": stamp}
        | ({} if epoch == NO_EPOCH else {"epoch": epoch})
        for p, offset, stamp, epoch in zip(
            position.partitions,
            position.offsets,
            position.timestamps,
            position.epochs,
            strict=True,
        )
    ]
    assert encoded == json.dumps(document, separators=(",", ":")).encode("ascii")
    assert not set(encoded) & set(b"\r\n\0")


@given(positions(), st.data())
def test_ids_of_a_cursor_are_those_of_its_position_after_any_walk(
    position: Position, data: st.DataObject
) -> None:
    cursor = Cursor(position)
    expected = position
    for _ in range(data.draw(st.integers(1, 12))):
        index = data.draw(st.integers(0, len(position.partitions) - 1))
        ahead = expected.offsets[index] + data.draw(st.integers(0, 9))
        partition = position.partitions[index]
        if data.draw(st.booleans()):
            stamp = data.draw(timestamps_ms)
            epoch = data.draw(epochs)
            position_id = cursor.pass_event(index, ahead, stamp, epoch)
            expected = expected.at(partition, ahead + 1, stamp, epoch)
            assert position_id == expected.encode()
        else:
            epoch = data.draw(epochs)
            cursor.pass_hole(index, ahead, epoch)
            expected = expected.at(partition, ahead, expected.timestamps[index], epoch)
        assert cursor.offset(index) == expected.offsets[index]
        assert cursor.position().encode() == expected.encode()
    assert Cursor(cursor.position()).position().encode() == expected.encode()


@given(positions(max_size=18), st.data())
def test_each_event_has_the_id_of_its_position(position: Position, data: st.DataObject) -> None:
    cursor = Cursor(position)
    for _ in range(data.draw(st.integers(1, 20))):
        index = data.draw(st.integers(0, len(position.partitions) - 1))
        ahead = min(position.offsets[index] + data.draw(st.integers(0, 9)), 2**63 - 2)
        partition = position.partitions[index]
        step = data.draw(st.sampled_from(["id", "id", "hole"]))
        if step == "hole":
            cursor.pass_hole(index, ahead)
            position = position.at(partition, ahead, position.timestamps[index])
            continue
        stamp = data.draw(timestamps_ms | st.just(0))
        epoch = data.draw(epochs)
        position = position.at(partition, ahead + 1, stamp, epoch)
        assert cursor.pass_event(index, ahead, stamp, epoch) == position.encode()
    assert cursor.position().encode() == position.encode()


@given(positions(max_size=18))
def test_an_id_is_json_up_to_a_kibibyte_and_a_token_beyond(position: Position) -> None:
    as_json = position.encode_json()
    due = as_json if len(as_json) <= JSON_BYTES_MAX else position.encode_token()
    assert position.encode() == due
    assert parse_last_event_id(position.encode().decode()) == parse_last_event_id(as_json.decode())


def test_an_id_changes_its_form_when_it_grows_and_when_it_shrinks() -> None:
    name = "a" * (JSON_BYTES_MAX - len(Position((Partition("", 0),), (9,), (0,)).encode()))
    cursor = Cursor(Position((Partition(name, 0),), (0,), (0,)))
    ids = [cursor.pass_event(0, *step) for step in ((8, 0), (9, 0), (10, 0), (8, 10), (5, 0))]
    assert [i[:1] for i in ids] == [b"[", b"v", b"v", b"v", b"["]
    assert len(ids[0]) == JSON_BYTES_MAX


@given(positions(max_size=3), positions(max_size=3))
def test_positions_with_equal_offsets_are_equal(a: Position, b: Position) -> None:
    same = (a.partitions, a.offsets) == (b.partitions, b.offsets)
    assert (a == b) is same
    elsewhere_in_time = Position(a.partitions, a.offsets, tuple(t + 1 for t in a.timestamps))
    assert elsewhere_in_time == a
    assert hash(elsewhere_in_time) == hash(a)
    assert a.at(a.partitions[0], a.offsets[0] + 1, 0) != a
    assert a != "a"


def test_a_position_moved_keeps_its_other_partitions() -> None:
    parts = tuple(Partition("a", n) for n in range(3))
    moved = Position(parts, (1, 2, 3), (10, 20, 30)).at(parts[1], 7, 70)
    assert (moved.offsets, moved.timestamps) == ((1, 7, 3), (10, 70, 30))
    assert repr(moved) == f"Position({moved.encode().decode()})"


@pytest.mark.parametrize(
    ("fields", "mark"),
    [
        ({"offset": 5}, PartitionCursor(P, 5, None)),
        ({"offset": 0}, PartitionCursor(P, 0, None)),
        ({"offset": 5, "timestamp": 77}, PartitionCursor(P, 5, 77)),
        ({"offset": 5.0}, PartitionCursor(P, 5, None)),
        ({"offset": 1e20}, PartitionCursor(P, 2**63 - 1, None)),
        ({"timestamp": 77}, PartitionCursor(P, None, 77)),
        ({"timestamp": 0}, PartitionCursor(P, None, 0)),
        ({"timestamp": "2026-01-01T00:00:00Z"}, PartitionCursor(P, None, 1767225600000)),
        ({"timestamp": "77"}, PartitionCursor(P, None, 77)),
        ({"offset": None, "timestamp": 77}, PartitionCursor(P, None, 77)),
        ({"offset": 5, "timestamp": None}, PartitionCursor(P, 5, None)),
        ({"offset": -1}, PartitionCursor(P, LATEST, None)),
        ({"offset": -1000}, PartitionCursor(P, LATEST, None)),
        ({"offset": -1001}, PartitionCursor(P, LATEST, None)),
        ({"offset": -2}, PartitionCursor(P, EARLIEST, None)),
        ({"offset": -2003}, PartitionCursor(P, -2003, None)),
        ({"timestamp": -1}, PartitionCursor(P, LATEST, None)),
        ({"timestamp": -2}, PartitionCursor(P, EARLIEST, None)),
        ({"offset": 5, "more": [1]}, PartitionCursor(P, 5, None)),
        ({"offset": 5, "epoch": 7}, PartitionCursor(P, 5, None, 7)),
        ({"offset": 5, "epoch": 0}, PartitionCursor(P, 5, None, 0)),
        ({"offset": 5, "epoch": None}, PartitionCursor(P, 5, None)),
        ({"offset": 5, "epoch": -1}, PartitionCursor(P, 5, None)),
    ],
)
def test_every_form_of_an_entry_is_accepted(fields: dict[str, Any], mark: PartitionCursor) -> None:
    assert entry(**fields) == mark


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('"a"', ("a",)),
        ('"a,b"', ("a", "b")),
        ('["a","b"]', ("a", "b")),
        ('["b",{"topic":"a","partition":0,"offset":3}]', ("b", PartitionCursor(P, 3, None))),
        (
            '[{"topic":"a","partition":1,"offset":3},{"topic":"a","partition":0,"timestamp":9}]',
            (PartitionCursor(Partition("a", 1), 3, None), PartitionCursor(P, None, 9)),
        ),
    ],
)
def test_names_and_mixtures_are_accepted_in_order(
    text: str, marks: tuple[PartitionCursor | str, ...]
) -> None:
    assert parse_last_event_id(text) == marks
    assert sorted(topics_of(marks)) == sorted(m if isinstance(m, str) else "a" for m in marks)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        "null",
        "5",
        "[]",
        "{}",
        '""',
        '"a,,b"',
        '[""]',
        "[null]",
        "[[]]",
        '["a","a"]',
        '"a,a"',
        '[{"partition":0,"offset":1}]',
        '[{"topic":"","partition":0,"offset":1}]',
        '[{"topic":5,"partition":0,"offset":1}]',
        '[{"topic":"a","offset":1}]',
        '[{"topic":"a","partition":"0","offset":1}]',
        '[{"topic":"a","partition":true,"offset":1}]',
        '[{"topic":"a","partition":0.5,"offset":1}]',
        '[{"topic":"a","partition":0}]',
        '[{"topic":"a","partition":0,"offset":null,"timestamp":null}]',
        '[{"topic":"a","partition":0,"offset":"5"}]',
        '[{"topic":"a","partition":0,"offset":1.5}]',
        '[{"topic":"a","partition":0,"offset":false}]',
        '[{"topic":"a","partition":0,"offset":-5}]',
        '[{"topic":"a","partition":0,"offset":-1999}]',
        '[{"topic":"a","partition":0,"timestamp":"soon"}]',
        '[{"topic":"a","partition":0,"timestamp":[]}]',
        '[{"topic":"a","partition":0,"offset":1},{"topic":"a","partition":0,"timestamp":1}]',
    ],
)
def test_invalid_assignments_are_refused(text: str) -> None:
    with pytest.raises(InvalidAssignment):
        parse_last_event_id(text)


@example("[" * 100_000)
@example("9" * 5_000)
@example('[{"topic":"a","partition":0,"offset":1e999}]')
@example('[{"topic":"\\ud800","partition":0,"offset":1}]')
@example("\ud800")
@given(st.text() | documents.map(json.dumps))
def test_garbage_is_an_invalid_assignment(text: str) -> None:
    try:
        marks = parse_last_event_id(text)
    except InvalidAssignment as error:
        json.dumps(error.body())
    else:
        assert marks


near_entries = st.fixed_dictionaries(
    {},
    optional={
        "topic": st.sampled_from(["a", "b", "", 5, None]),
        "partition": st.sampled_from([0, 1, 1.0, -1, "0", None, True, 1e300]),
        "offset": st.sampled_from([0, 7, -1, -2, -3, -2001, 2**70, 1e300, "7", None, 0.5]),
        "timestamp": st.sampled_from([0, 7, -1, -2, -9, 2**70, 1e300, "7", "x", "", None, {}]),
    },
)


@given(st.lists(near_entries | st.sampled_from(["a", "b", ""]), max_size=3))
def test_near_assignments_are_read_correctly_or_refused(entries: list[Any]) -> None:
    try:
        marks = parse(entries)
    except InvalidAssignment:
        return
    assert len(marks) == len(entries) == len(set(marks))
    for mark in marks:
        if not isinstance(mark, str):
            assert type(mark.partition.number) is int
            assert {type(mark.offset), type(mark.timestamp_ms)} <= {int, type(None)}
            assert mark.offset is not None or mark.timestamp_ms is not None


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_last_n_events_are_counted_from_the_end(n: int, other: int) -> None:
    assume(n != other)
    assert before_end(-2000 - n) == n
    assert before_end(-2000 - other) != n
    for offset in (*range(-5, 5), -1000, -1001, -1999, other):
        assert before_end(offset) is None


def test_refusals_quote_the_unreadable_part() -> None:
    with pytest.raises(InvalidAssignment) as refused:
        parse_last_event_id("{")
    assert refused.value.body()["last_event_id"] == "{"
    with pytest.raises(InvalidAssignment) as refused:
        parse_last_event_id("[{}]")
    assert refused.value.body()["assignments"] == [{}]


def test_more_entries_than_a_token_may_have_are_refused_without_an_echo() -> None:
    names = [f"t{n}" for n in range(PARTITIONS_MAX)]
    assert len(parse_last_event_id(json.dumps(names))) == PARTITIONS_MAX
    with pytest.raises(InvalidAssignment, match=r"10001 entries; the limit is 10000") as refused:
        parse_last_event_id(json.dumps([*names, "one more"]))
    assert len(refused.value.body()["assignments"] or []) == 0


def test_numbers_beyond_64_bits_become_the_nearest_that_fit() -> None:
    for number, fits in ((10**30, 2**63 - 1), (-(10**30), -(2**63))):
        text = f'[{{"topic":"t","partition":0,"offset":{number},"timestamp":{number}}}]'
        [mark] = parse_last_event_id(text)
        assert isinstance(mark, PartitionCursor)
        assert (mark.offset, mark.timestamp_ms) == (fits, fits)


def steps_of(text: str) -> int:
    """Return the number of steps in which an id is read."""
    steps, count = read_last_event_id(text), 1
    with contextlib.suppress(StopIteration):
        while True:
            next(steps)
            count += 1
    return count


@pytest.mark.parametrize("topics", [1, 100, 5_000])
@pytest.mark.parametrize("as_token", [False, True])
def test_an_id_of_many_partitions_is_read_in_many_steps(topics: int, *, as_token: bool) -> None:
    def position(count: int) -> Position:
        partitions = tuple(Partition(f"t{n % topics}", n // topics) for n in range(count))
        return Position(
            tuple(sorted(partitions)),
            tuple(range(count)),
            (1_700_000_000_000,) * count,
            (7,) * count,
        )

    def text(position: Position) -> str:
        said = position.encode_token() if as_token else position.encode_json()
        assert said is not None
        return said.decode()

    assert steps_of(text(position(10_000))) >= 10_000 / 256 * 2
    assert steps_of(text(position(20))) == 1


@pytest.mark.parametrize("epoch", [-1, 0, 2**31 - 1])
def test_every_epoch_that_kafka_has_is_read(epoch: int) -> None:
    text = f'[{{"topic":"t","partition":0,"offset":1,"epoch":{epoch}}}]'
    assert parse_last_event_id(text) == (PartitionCursor(Partition("t", 0), 1, None, epoch),)
    for wrong in (-2, 2**31):
        with pytest.raises(InvalidAssignment, match="is not an epoch"):
            parse_last_event_id(text.replace(f'"epoch":{epoch}', f'"epoch":{wrong}'))


def test_the_last_0_events_are_the_end() -> None:
    text = '[{"topic":"t","partition":0,"offset":-2000}]'
    assert parse_last_event_id(text) == (PartitionCursor(Partition("t", 0), -2000, None),)
    assert before_end(-2000) == 0


def long_position(count: int) -> Position:
    partitions = tuple(Partition(f"t{n // 40:04}", n % 40) for n in range(count))
    offsets = tuple(n * n for n in range(count))
    return Position(partitions, offsets, offsets, (7,) * count)


def test_a_long_id_is_encoded_in_steps_only_once() -> None:
    position = long_position(10_000)
    fresh = long_position(10_000)
    assert sum(1 for _ in position.prepare()) > 3 * 10_000 / 1024
    assert sum(1 for _ in position.encoding()) == 0
    assert position.encode() == fresh.encode() == fresh.encode_token()


def test_the_position_of_a_cursor_needs_no_new_encoding() -> None:
    cursor = Cursor(long_position(500))
    id_ = cursor.pass_event(77, 100_000, 5)
    after = cursor.position()
    assert sum(1 for _ in after.encoding()) == 0
    assert id_ == after.encode() == after.encode_token()
    assert cursor.pass_event(78, 100_001, 6) == cursor.position().encode()
    assert after.encode() == id_


def test_two_cursors_of_one_position_do_not_disturb_each_other() -> None:
    position = long_position(500)
    id_ = position.encode()
    first, second = Cursor(position), Cursor(position)
    moved = position.at(position.partitions[3], 10**6, 1, 7)
    assert first.pass_event(3, 10**6 - 1, 1, 7) == moved.encode()
    assert second.pass_event(3, 10**6 - 1, 1, 7) == moved.encode()
    assert position.encode() == id_


@pytest.mark.parametrize("count", [19, 20, 21])
@pytest.mark.parametrize("topic", ["a", "a" * 200])
def test_ids_around_the_number_that_is_always_long_follow_the_same_rule(
    count: int, topic: str
) -> None:
    partitions = tuple(Partition(topic, n) for n in range(count))
    position = Position(partitions, (0,) * count, (0,) * count)
    as_json = position.encode_json()
    due = as_json if len(as_json) <= JSON_BYTES_MAX else position.encode_token()
    assert position.encode() == due
    moved = position.at(partitions[0], 1, 0)
    assert Cursor(position).pass_event(0, 0, 0) == moved.encode()


def test_a_position_that_fits_in_no_token_is_encoded_as_json_in_steps() -> None:
    partitions = tuple(Partition(f"{n:0300}", 0) for n in range(1_000))
    position = Position(partitions, (0,) * 1_000, (0,) * 1_000)
    assert sum(1 for _ in position.encoding()) >= 3
    assert position.encode() == position.encode_json()
    cursor = Cursor(position)
    assert cursor.pass_event(1, 4, 5) == position.at(partitions[1], 5, 5).encode()
