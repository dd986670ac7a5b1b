"""Framing, checked by a parser that was written from the standard."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from eventstreams.model import sse
from eventstreams.model.event import Event, Partition
from eventstreams.model.frame import encode
from eventstreams.model.position import Cursor, Position
from tests.support.strategies import event_documents, positions
from tests.support.wire import Frame, frames_of


def test_a_message_is_event_data_id_and_a_blank_line() -> None:
    body = b"".join((sse.MESSAGE, b"{}", sse.ID, b'[{"topic":"t"}]', sse.END))
    assert body == b'event: message\ndata: {}\nid: [{"topic":"t"}]\n\n'


@given(event_documents(), positions())
def test_a_parser_reads_back_what_was_framed(document: dict[str, object], at: Position) -> None:
    event = Event(Partition("t", 0), 7, 1, json.dumps(document).encode())
    data = encode(event)
    assert data is not None
    position_id = Cursor(at).pass_event(0, 7, 1)
    body = sse.OK + b"".join((sse.MESSAGE, data, sse.ID, position_id, sse.END)) + sse.HEARTBEAT
    [frame] = frames_of(body)
    assert frame == Frame("message", data.decode(), position_id.decode())


@given(positions())
def test_control_frames_have_their_id_last_and_no_raw_line_ends(position: Position) -> None:
    body = sse.control("gap", {"message": "a\nb\u2028"}, position.encode())
    assert [line.split(b":")[0] for line in body.split(b"\n")] == [
        b"event",
        b"data",
        b"id",
        b"",
        b"",
    ]
    [frame] = frames_of(body)
    assert frame.event == "gap"
    assert json.loads(frame.data) == {"message": "a\nb\u2028"}
    assert frame.id == position.encode().decode()


@pytest.mark.parametrize("torn", [sse.OK, sse.HEARTBEAT, sse.retry(1234)])
def test_frames_without_events_yield_none(torn: bytes) -> None:
    assert frames_of(torn) == []
    assert torn.endswith(b"\n")


def test_a_heartbeat_and_a_retry_have_no_blank_line_after_them() -> None:
    assert sse.HEARTBEAT == b":\n"
    assert sse.retry(1234) == b"retry: 1234\n"
    assert sse.OK == b":ok\n\n"
