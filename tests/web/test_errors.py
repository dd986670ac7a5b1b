"""Refusals: the order of checks, and the two formats of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventstreams.config.settings import LimitSettings
from eventstreams.errors import InvalidParameter
from eventstreams.web.answers import uri
from eventstreams.web.request import NAMES_MAX, PREFIX, stream_names
from tests.support.client import connected
from tests.support.gateway import Headers, Site, ask

pytestmark = pytest.mark.anyio

GOOD_IP = {"X-Client-IP": "192.0.2.1"}


def last_event_id(value: Any) -> Headers:
    return {"Last-Event-ID": value if isinstance(value, str) else json.dumps(value)}


async def test_problem_documents_have_upstream_key_order(
    embedded: Site,
) -> None:
    async with embedded.gateway({"edits": [await embedded.topic()]}) as gateway:
        answer = await gateway.get("/v2/stream/edits,nope,nope2?x=1")
    assert (answer.status, answer.head.reason) == (400, "Bad Request")
    assert answer.head.get("content-type") == "application/json; charset=utf-8"
    assert answer.body == (
        b'{"status":400,"type":"not_found","title":"Stream Not Found",'
        b'"detail":"Invalid streams: nope,nope2; GET /v2/streams lists the names","method":"GET",'
        b'"uri":"/v2/stream/edits,nope,nope2?x=1"}'
    )


LISTED = "; GET /v2/streams lists the names"
UNKNOWN = {
    "edits,": LISTED,
    ",edits": LISTED,
    ",": "," + LISTED,
    "edits%2Cnope": "nope" + LISTED,
    "edits%2F": "edits/; did you mean edits?",
    "Edits": "Edits; did you mean edits?",
    "edits%20": "edits ; did you mean edits?",
    "%ff": "\ufffd" + LISTED,
    "%F0%9F%98%80": "\U0001f600" + LISTED,
}


async def test_unknown_streams_are_400_and_listed(embedded: Site) -> None:
    async with embedded.gateway({"edits": [await embedded.topic()]}) as gateway:
        for path, named in UNKNOWN.items():
            answer = await gateway.get(f"/v2/stream/{path}")
            assert answer.status == 400
            assert answer.json()["type"] == "not_found"
            assert answer.json()["detail"] == f"Invalid streams: {named}"


async def test_commas_may_be_percent_encoded(site: Site) -> None:
    streams = {"a": [await site.topic()], "b": [await site.topic()]}
    async with site.gateway(streams) as gateway, gateway.stream("a%2Cb") as stream:
        await stream.opened()


async def test_checks_happen_in_the_order_of_kafkasse(site: Site) -> None:
    limits = LimitSettings(client_ip_connections=1)
    topic = await site.topic()
    bad_id = {"Last-Event-ID": "nope"}
    async with site.gateway({"s": [topic]}, limits=limits) as gateway:

        async def refusal(target: str, headers: Headers) -> tuple[int, str]:
            answer = await gateway.get(target, headers)
            body = answer.json()
            return answer.status, body.get("type") or body["name"]

        every = "/v2/stream/nope?since=nope"
        assert await refusal(every, bad_id) == (400, "bad_request")
        async with gateway.stream("s", GOOD_IP):
            taken = {**GOOD_IP, **bad_id}
            assert await refusal(every, taken) == (429, "too_many_requests")
        free = {"X-Client-IP": "192.0.2.2", **bad_id}
        assert await refusal(every, free) == (400, "not_found")
        assert await refusal("/v2/stream/s?since=nope", free) == (400, "invalid_timestamp")
        assert await refusal("/v2/stream/s", free) == (400, "InvalidAssignmentError")
        unknown = {**free, "Last-Event-ID": '["nope"]'}
        assert await refusal("/v2/stream/s", unknown) == (404, "TopicNotAvailableError")


NOT_JSON = ["nope", '"""{nope', "[", "{", "'a'", "[1,]", "\U0001f600"]


async def test_an_id_that_is_not_json_is_an_invalid_assignment(
    site: Site,
) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway:
        for text in NOT_JSON:
            answer = await gateway.get("/v2/stream/s", last_event_id(text))
            body = answer.json()
            assert answer.status == body["statusCode"] == 400
            assert list(body) == [
                "message",
                "origin",
                "name",
                "originalName",
                "last_event_id",
                "statusCode",
            ]
            assert (body["origin"], body["name"]) == ("KafkaSSE", "InvalidAssignmentError")
            assert (body["originalName"], body["last_event_id"]) == ("SyntaxError", text)


def entry(**fields: Any) -> dict[str, Any]:
    return {"topic": "TOPIC", "partition": 0, **fields}


INVALID: list[Any] = [
    [],
    {},
    None,
    5,
    "",
    [5],
    [None],
    [[]],
    [{}],
    ["TOPIC", 1234],
    [entry(offset=0), 1234],
    [{"partition": 0, "offset": 0}],
    [{"topic": "TOPIC", "offset": 0}],
    [entry()],
    [entry(offset=None, timestamp=None)],
    [entry(offset="5")],
    [entry(offset=[1])],
    [entry(offset={})],
    [entry(offset=True)],
    [entry(offset=1.5)],
    [entry(offset=-5)],
    [entry(timestamp="yesterday")],
    [entry(timestamp=[1])],
    [entry(timestamp=False)],
    [{"topic": 123, "partition": 0, "offset": 0}],
    [{"topic": "", "partition": 0, "offset": 0}],
    [{"topic": None, "partition": 0, "offset": 0}],
    [{"topic": "TOPIC", "partition": "0", "offset": 0}],
    [{"topic": "TOPIC", "partition": 0.5, "offset": 0}],
    [entry(offset=0), entry(offset=0)],
    [entry(offset=0), entry(timestamp=0)],
    ["TOPIC", "TOPIC"],
    [""],
]


async def test_an_id_without_valid_entries_is_an_invalid_assignment(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway:
        for invalid in INVALID:
            text = json.dumps(invalid).replace("TOPIC", topic)
            answer = await gateway.get("/v2/stream/s", last_event_id(text))
            body = answer.json()
            assert answer.status == body["statusCode"] == 400, text
            assert list(body) == [
                "message",
                "origin",
                "name",
                "originalName",
                "assignments",
                "statusCode",
            ]
            assert (body["name"], body["originalName"]) == ("InvalidAssignmentError", "Error")
            echo = [""] if invalid == "" else json.loads(text)  # a string is a list of names
            assert body["assignments"] == echo


async def test_a_deeply_nested_id_is_refused_without_quoting_it(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for depth, has_echo in ((253, True), (254, False), (900, False)):
            header = last_event_id("[" * depth + "]" * depth)
            answer = await gateway.get("/v2/stream/s", header)
            assert answer.status == 400
            assert (answer.json()["assignments"] is not None) == has_echo


async def test_assignment_errors_are_in_the_reason_phrase(
    site: Site,
) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway, connected(gateway.port) as client:
        answer = await ask(client, "GET", "/v2/stream/s", last_event_id('["nope","no"]'))
        assert answer.head.get("content-type") is None
        assert answer.body.endswith(b"}\n")
        assert answer.body.count(b"\n") == 1
        message = "Topics nope, no are not available for consumption."
        assert answer.head.reason == f"TopicNotAvailableError: {message}"
        assert answer.json() == {
            "message": message,
            "origin": "KafkaSSE",
            "name": "TopicNotAvailableError",
            "availableTopics": [topic],
            "statusCode": 404,
        }
        again = await ask(client, "GET", "/v2/stream/nope")
        assert again.head.reason == "Bad Request", "the phrase is only for one response"


async def test_reason_phrases_are_printable_ascii(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway:
        for name in ("a\r\nX-Evil: 1", "ü\u2028", "x" * 10_000, "\x7f\x00"):
            answer = await gateway.get("/v2/stream/s", last_event_id([name]))
            assert answer.status == 404
            assert answer.head.reason.isascii()
            assert answer.head.reason.isprintable()
            assert len(answer.head.reason) <= 200
            assert answer.head.get("x-evil") is None
            assert name in answer.json()["message"]


async def test_a_topic_outside_the_requested_streams_is_404(site: Site) -> None:
    asked, other = await site.topic(), await site.topic()
    async with site.gateway({"a": [asked], "b": [other]}) as gateway:
        for mark in ([other], [{"topic": other, "partition": 0, "offset": 0}], f"{asked},{other}"):
            answer = await gateway.get("/v2/stream/a", last_event_id(json.dumps(mark)))
            assert answer.status == 404
            assert answer.json()["availableTopics"] == [asked]
        header = last_event_id([{"topic": other, "partition": 0, "offset": 0}])
        async with gateway.stream("a,b", header) as stream:
            await stream.opened()


async def test_an_unknown_partition_is_404(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway:
        for number in (1, 99, -1, 2**31, 10**30):
            for at in ("offset", "timestamp"):
                header = last_event_id([{"topic": topic, "partition": number, at: 0}])
                answer = await gateway.get("/v2/stream/s", header)
                assert (answer.status, answer.json()["name"]) == (404, "TopicNotAvailableError")
                assert topic in answer.json()["message"]


STRANGE: list[str] = [
    "[" * 300 + "]" * 300,
    "[" * 5000 + "]" * 5000,
    '[{"topic":"TOPIC","partition":0,"offset":1e400}]',
    '[{"topic":"TOPIC","partition":0,"offset":1e20}]',
    '[{"topic":"TOPIC","partition":0,"offset":-1e20}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":1e20}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":-3}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":-5}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":-1e20}]',
    '[{"topic":"TOPIC","partition":0,"offset":0,"timestamp":1e20}]',
    '[{"topic":"TOPIC","partition":0,"offset":9,"timestamp":-7}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":"1600-01-01"}]',
    '[{"topic":"TOPIC","partition":0,"timestamp":"99999999999999999"}]',
    '[{"topic":"\\ud800","partition":0,"offset":0}]',
    '["\\u0000"]',
    '[{"topic":"TOPIC","partition":0,"offset":0,"offset":1}]',
    '[{"topic":"TOPIC","partition":0,"offset":123456789012345678901234567890}]',
    '[{"topic":"TOPIC","partition":0,"offset":"123456789012345678901234567890"}]',
]


async def test_arbitrary_headers_never_cause_500(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, {"n": 1}, {"n": 2})
    async with site.gateway({"s": [topic]}) as gateway:
        for text in STRANGE:
            header = last_event_id(text.replace("TOPIC", topic))
            async with gateway.opened("/v2/stream/s", header) as stream:
                assert stream.head.status in (200, 400, 404), text[:100]
                if stream.head.status == 200:
                    await stream.opened()


@pytest.mark.kafka
async def test_a_stream_with_one_missing_topic_is_404_and_with_none_500(kafka_site: Site) -> None:
    there, missing = await kafka_site.topic(), kafka_site.backend.topic_name()
    async with kafka_site.gateway({"half": [there, missing], "none": [missing]}) as gateway:
        half, none = await gateway.get("/v2/stream/half"), await gateway.get("/v2/stream/none")
    assert half.status == 404
    assert half.json()["message"] == f"Topics {missing} are not available for consumption."
    assert half.json()["availableTopics"] == [there]
    assert (none.status, none.json()["name"]) == (500, "ConfigurationError")
    assert none.json()["allowedTopics"] == [missing]


@pytest.mark.kafka
async def test_a_topic_created_after_the_start_is_found(kafka_site: Site) -> None:
    topic = kafka_site.backend.topic_name()
    async with kafka_site.gateway({"s": [topic]}) as gateway:
        assert (await gateway.get("/v2/stream/s")).status == 500
        await kafka_site.log.create_topic(topic, 1)
        async with gateway.stream("s") as stream:
            await stream.opened()
            await kafka_site.produce(topic, {"n": 1})
            assert (await stream.frame()).place == (topic, 0, 0)


@pytest.mark.parametrize(
    "path", ["/v2/stream/edits", "/v2/explain", "/v2/cursor", "/", "/v1/stream-configs"]
)
async def test_a_query_with_too_many_parameters_is_refused(embedded: Site, path: str) -> None:
    async with embedded.gateway({"edits": [await embedded.topic()]}) as gateway:
        answer = await gateway.get(f"{path}?" + "a=1&" * 100)
    assert answer.status == 400
    assert answer.json()["type"] == "invalid_parameter"
    assert answer.json()["detail"] == "The query has more than 100 parameters"


def test_the_number_of_streams_in_a_path_is_limited() -> None:
    def names(count: int) -> list[str]:
        return stream_names({"path": PREFIX + ",".join(["s"] * count)})

    assert len(names(NAMES_MAX)) == NAMES_MAX
    with pytest.raises(InvalidParameter, match="more than 1000 streams"):
        names(NAMES_MAX + 1)


@pytest.mark.parametrize("name", ["ticket", "%74icket", "tick%65t"])
def test_errors_never_contain_a_ticket(name: str) -> None:
    query = f"since=-1h&{name}=secret&ticketless=1".encode()
    shown = uri({"path": "/v2/stream/s", "query_string": query})
    assert shown == "/v2/stream/s?since=-1h&ticket=...&ticketless=1"
