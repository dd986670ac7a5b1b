"""URLs of upstreams, and the routes of their events."""

from __future__ import annotations

import pytest

from eventstreams.errors import RelayFault
from eventstreams.model.event import Partition
from eventstreams.relay.routes import Routes
from eventstreams.relay.upstream import BadUpstream, find_upstream
from tests.relay.scripted import CATALOGUE

HOST = "https://stream.example.org"


@pytest.mark.parametrize(
    ("url", "streams", "expected"),
    [
        (HOST, ["a", "b"], "/v2/stream/a,b"),
        (f"{HOST}/", ["a"], "/v2/stream/a"),
        (f"{HOST}/v2/stream", ["a"], "/v2/stream/a"),
        (f"{HOST}/v2/stream/", ["a"], "/v2/stream/a"),
        (f"{HOST}/v2/stream/a", [], "/v2/stream/a"),
        (f"{HOST}/v2/stream/a%2Fb,c", [], "/v2/stream/a%2Fb,c"),
        (f"{HOST}/v2/stream/b,a", ["a", "b"], "/v2/stream/a,b"),
        (f"{HOST}/prefix/v2/stream/a", [], "/prefix/v2/stream/a"),
        (f"{HOST}/prefix/", ["a"], "/prefix/v2/stream/a"),
    ],
)
def test_the_url_or_an_option_names_the_streams(
    url: str, streams: list[str], expected: str
) -> None:
    found = find_upstream(url, streams)
    assert found.url == f"{HOST}{expected}"


@pytest.mark.parametrize(
    ("url", "streams", "said"),
    [
        ("stream.example.org", ["a"], "not an http or https URL"),
        ("ftp://x/", ["a"], "not an http or https URL"),
        ("http://[::1", ["a"], "not a URL"),
        (
            HOST,
            [],
            "names no stream; expected a URL such as https://stream.example.org/v2/stream/NAME",
        ),
        (f"{HOST}/v2/stream/a", ["b"], "names other streams than b"),
        (f"{HOST}/v2/stream/a?since=1", [], "must not have a password, parameters or a fragment"),
        ("https://me:secret@x.org/v2/stream/a", [], "must not have a password"),
    ],
)
def test_an_invalid_upstream_url_is_refused(url: str, streams: list[str], said: str) -> None:
    with pytest.raises(BadUpstream, match=said):
        find_upstream(url, streams)


@pytest.mark.parametrize(
    ("streams", "stream", "topic", "expected"),
    [
        ({"edits": "edits"}, "edits", "codfw.edits", "codfw.edits"),
        ({"e": "edits"}, "edits", "eqiad.edits", "eqiad.edits"),
        ({"theirs": "edits"}, "theirs", "codfw.theirs", "codfw.edits"),
        ({"theirs": "edits"}, "theirs", "asia.theirs", "eqiad.edits"),
        ({"theirs": "edits"}, None, "anything", "eqiad.edits"),
        ({"edits": "moves"}, "edits", "eqiad.edits", "moves"),
        ({"edits": "edits", "m": "moves"}, "m", "their.m", "moves"),
        ({"edits": "edits", "moves": "moves"}, None, "moves", "moves"),
    ],
)
def test_an_event_goes_to_the_topic_of_its_stream_and_data_centre(
    streams: dict[str, str], stream: str | None, topic: str, expected: str
) -> None:
    assert Routes(streams, CATALOGUE).topic(stream, topic) == expected


def test_an_event_of_another_stream_is_refused() -> None:
    routes = Routes({"edits": "edits", "moves": "moves"}, CATALOGUE)
    with pytest.raises(RelayFault, match="the stream 'x' and the topic 'y', which is not one of"):
        routes.topic("x", "y")


def test_a_gap_is_recorded_where_events_may_be_missing() -> None:
    both = Routes({"edits": "edits", "moves": "moves"}, CATALOGUE)
    assert both.topics_of_gap(Partition("codfw.edits", 0)) == ("codfw.edits",)
    assert both.topics_of_gap(Partition("unknown", 0)) == ("eqiad.edits", "codfw.edits", "moves")
    one = Routes({"theirs": "edits"}, CATALOGUE)
    assert one.topics_of_gap(Partition("codfw.theirs", 0)) == ("codfw.edits",)


def test_an_invalid_contact_is_refused() -> None:
    with pytest.raises(BadUpstream, match="a header cannot contain"):
        find_upstream("http://h/v2/stream/a", (), contact="me@example.org\r\nX: y")
