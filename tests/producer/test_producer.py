"""The producer, with a scripted intake."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstreams.producer import Accepted, GaveUp, Producer, ProducerClosed, Rejected
from tests.producer.scripted import (
    CUT,
    TAKEN,
    Events,
    Said,
    element,
    event,
    held,
    in_turn,
    scripted,
    soon,
)
from tests.support.ports import free_port

pytestmark = pytest.mark.anyio


async def test_results_come_in_the_order_of_the_events() -> None:
    said = Said(207, {"invalid": [element("invalid", "no such field", index=1)], "error": []})
    async with scripted(in_turn(said)) as intake, Producer(intake.url) as producer:
        results = await soon(producer.send(event(0), event(1), event(2)))
    assert results == [
        Accepted(event(0)),
        Rejected(event(1), "no such field"),
        Accepted(event(2)),
    ]
    assert intake.requests == [[event(0), event(1), event(2)]]


async def test_requests_have_the_form_of_eventgate() -> None:
    async with (
        scripted(in_turn()) as intake,
        Producer(
            intake.url, headers={"Authorization": "Bearer x", "User-Agent": "mine"}
        ) as producer,
    ):
        await soon(producer.send(event(0)))
    [head] = intake.heads
    assert head[":path"] == "/v1/events"
    assert head["content-type"] == "application/json"
    assert head["authorization"] == "Bearer x"
    assert head["user-agent"] == "mine"


async def test_a_path_in_the_url_is_kept() -> None:
    async with (
        scripted(in_turn()) as intake,
        Producer(f"{intake.url}/events?schema_uri=/a/1.0.0") as producer,
    ):
        await soon(producer.send(event(0)))
    assert intake.heads[0][":path"] == "/events?schema_uri=/a/1.0.0"


async def test_events_get_an_id_that_retries_keep() -> None:
    mine = {"meta": {"stream": "s"}, "n": 1}
    async with scripted(in_turn(Said(503), CUT)) as intake, Producer(intake.url) as producer:
        [one, two, three] = await soon(producer.send(mine, event(7), {"n": 2}))
    assert mine == {"meta": {"stream": "s"}, "n": 1}, "the argument is not modified"
    assert len(one.event["meta"]["id"]) == 36
    assert two.event["meta"]["id"] == "id-7"
    assert three.event == {"n": 2}
    assert len(intake.requests) == 3
    assert intake.requests[0] == intake.requests[1] == intake.requests[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", "\ud800", object()])
async def test_values_that_are_not_json_are_refused_before_sending(value: Any) -> None:
    async with scripted(in_turn()) as intake, Producer(intake.url) as producer:
        for put in (producer.send, producer.enqueue):
            with pytest.raises((TypeError, ValueError)):
                await put(event(0), event(1, value=value))
        await soon(producer.flush())
    assert intake.requests == []


async def test_integers_of_any_size_are_sent_unchanged() -> None:
    async with scripted(in_turn()) as intake, Producer(intake.url) as producer:
        await soon(producer.send(event(10**30)))
    assert intake.numbers == [[10**30]]


async def test_events_put_during_a_request_form_the_next_batch() -> None:
    came, go, script = held()
    async with scripted(script) as intake, Producer(intake.url, batch_events=3) as producer:
        await producer.enqueue(event(0))
        await soon(came.wait())
        for n in range(1, 6):
            await producer.enqueue(event(n))
        go.set()
        await soon(producer.flush())
    assert intake.numbers == [[0], [1, 2, 3], [4, 5]]


async def test_requests_are_limited_in_bytes() -> None:
    came, go, script = held()
    async with scripted(script) as intake, Producer(intake.url, batch_bytes=3000) as producer:
        await producer.enqueue(event(0))
        await soon(came.wait())
        await producer.enqueue(*(event(n, text="x" * size) for n, size in ((1, 1000), (2, 1000))))
        await producer.enqueue(event(3, text="x" * 9000), event(4))
        go.set()
        await soon(producer.flush())
    assert intake.numbers == [[0], [1, 2], [3], [4]]


async def test_incomplete_batches_linger_if_configured() -> None:
    async with scripted(in_turn()) as intake, Producer(intake.url, linger_s=0.2) as producer:
        await producer.enqueue(event(0))
        await asyncio.sleep(0)  # the producer sees only this event
        await producer.enqueue(event(1))
        await soon(producer.flush())
    assert intake.numbers == [[0, 1]]


@pytest.mark.parametrize(
    "said",
    [
        CUT,
        Said(500, b"<html>"),
        Said(502),
        Said(404),
        Said(401),
        Said(429, headers=(("retry-after", "0"),)),
        Said(200, {"login": "please"}),
        Said(500, {"invalid": [], "error": [element("error", "not now", index=0)]}),
    ],
)
async def test_unanswered_events_are_sent_again(said: Said) -> None:
    async with scripted(in_turn(said, said)) as intake, Producer(intake.url) as producer:
        assert await soon(producer.send(event(0))) == [Accepted(event(0))]
    assert intake.numbers == [[0], [0], [0]]


async def test_failed_events_are_sent_again_before_later_ones() -> None:
    failed = [element("error", "not now", event=event(n)) for n in (1, 3)]
    came, go, script = held(Said(207, {"invalid": [], "error": failed}))
    async with scripted(script) as intake, Producer(intake.url) as producer:
        sending = asyncio.create_task(producer.send(*map(event, range(5))))
        await soon(came.wait())
        await producer.enqueue(event(5))
        go.set()
        assert await soon(sending) == [Accepted(event(n)) for n in range(5)]
        await soon(producer.flush())
    assert intake.numbers == [[0, 1, 2, 3, 4], [1, 3, 5]]


async def test_a_late_response_causes_a_retry() -> None:
    _, go, script = held()
    async with scripted(script) as intake, Producer(intake.url, timeout_s=0.2) as producer:
        assert await soon(producer.send(event(0))) == [Accepted(event(0))]
        go.set()
    assert intake.numbers[:2] == [[0], [0]]


async def test_an_intake_that_starts_late_gets_all_events() -> None:
    port = free_port()
    async with Producer(f"http://127.0.0.1:{port}") as producer:
        sending = asyncio.create_task(producer.send(event(0)))
        async with scripted(in_turn(), port):
            assert await soon(sending) == [Accepted(event(0))]


async def test_retry_after_is_obeyed() -> None:
    said = Said(503, {"detail": "full"}, (("retry-after", "1"),))
    came: list[float] = []

    async def script(events: Events) -> Said:
        came.append(time.monotonic())
        return TAKEN if len(came) > 1 else said

    async with scripted(script) as intake, Producer(intake.url) as producer:
        await soon(producer.send(event(0)))
    assert came[1] - came[0] >= 1


async def test_oversized_requests_are_halved_until_accepted() -> None:
    async def script(events: Events) -> Said:
        if len(events) > 2 or any(e["n"] == 5 for e in events):
            return Said(413, {"detail": "too large"})
        return TAKEN

    async with scripted(script) as intake, Producer(intake.url) as producer:
        results = await soon(producer.send(*map(event, range(9))))
    wanted: list[Any] = [Accepted(event(n)) for n in range(9)]
    assert isinstance(results[5], Rejected)
    assert results[5].reason.startswith("413 ")
    assert results[5].reason.endswith(": too large")
    wanted[5] = results[5]
    assert results == wanted
    taken = [
        n for numbers in intake.numbers if len(numbers) <= 2 and 5 not in numbers for n in numbers
    ]
    assert taken == [0, 1, 2, 3, 4, 6, 7, 8], "in order, and once"


async def test_persistently_failing_events_are_given_up() -> None:
    async def script(events: Events) -> Said:
        bad = [element("error", "poison", index=i) for i, e in enumerate(events) if e["n"] == 1]
        if not bad:
            return TAKEN
        status = 207 if len(events) > len(bad) else 500
        return Said(status, {"invalid": [], "error": bad})

    async with scripted(script) as intake, Producer(intake.url, give_up_s=3.0) as producer:
        results = await soon(producer.send(*map(event, range(3))))
        assert results == [Accepted(event(0)), GaveUp(event(1), "poison"), Accepted(event(2))]
        assert await soon(producer.send(event(3))) == [Accepted(event(3))]
    assert len(intake.requests) > 2


async def test_each_event_is_given_up_after_its_own_time() -> None:
    losses: list[Any] = []
    url = f"http://127.0.0.1:{free_port()}"
    async with Producer(url, give_up_s=0.3, batch_events=2, on_loss=losses.append) as producer:
        results = await soon(producer.send(*map(event, range(7))))
    assert [result.event for result in results] == [event(n) for n in range(7)]
    assert all(isinstance(result, GaveUp) for result in results)
    assert {result.reason for result in results if isinstance(result, GaveUp)} == {
        "ConnectError: All connection attempts failed"
    }
    assert losses == results


async def test_a_full_queue_blocks_callers_in_order() -> None:
    came, go, script = held()
    async with scripted(script) as intake, Producer(intake.url, queue_bytes_max=1000) as producer:
        await producer.enqueue(event(0))
        await soon(came.wait())
        waiting = [asyncio.create_task(producer.enqueue(event(n))) for n in range(1, 9)]
        await asyncio.sleep(0)
        while sum(task.done() for task in waiting) < 2:  # those that fit
            await asyncio.sleep(0)
        assert not all(task.done() for task in waiting)
        waiting[4].cancel()
        go.set()
        await soon(asyncio.wait(waiting))
        await soon(producer.flush())
    sent = [n for numbers in intake.numbers for n in numbers]
    assert sent == [n for n in range(9) if n != 5]


async def test_leaving_the_context_waits_for_events() -> None:
    came, go, script = held()
    async with scripted(script) as intake, Producer(intake.url) as producer:
        await producer.enqueue(event(0))
        await soon(came.wait())
        await producer.enqueue(event(1))
        go.set()
    assert intake.numbers == [[0], [1]]


async def test_leaving_without_an_intake_reports_losses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses: list[Any] = []
    never, _, script = held()
    async with scripted(script) as intake:
        producer = Producer(intake.url, drain_s=0.1, queue_bytes_max=600, on_loss=losses.append)
        async with producer:
            await producer.enqueue(event(0), event(1))
            sending = asyncio.create_task(producer.send(event(2)))
            await soon(never.wait())
        with pytest.raises(ProducerClosed):
            await sending
    assert losses == [GaveUp(event(n), "the producer was closed") for n in (0, 1)]
    assert "an event of s was lost (gave_up): the producer was closed" in caplog.text


async def test_cancelling_a_send_affects_no_other() -> None:
    came, go, script = held()
    async with scripted(script) as intake, Producer(intake.url) as producer:
        impatient = asyncio.create_task(producer.send(event(0)))
        await soon(came.wait())
        patient = asyncio.create_task(producer.send(event(1)))
        impatient.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await impatient
        go.set()
        assert await soon(patient) == [Accepted(event(1))]
    assert intake.numbers == [[0], [1]]


async def test_a_failing_on_loss_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("mine")

    said = Said(400, {"invalid": [element("invalid", "bad", index=0)]})
    async with scripted(in_turn(said)) as intake, Producer(intake.url, on_loss=fail) as producer:
        assert await soon(producer.send(event(0))) == [Rejected(event(0), "bad")]
        assert await soon(producer.send(event(1))) == [Accepted(event(1))]
    assert "on_loss failed" in caplog.text


@pytest.mark.parametrize(
    ("url", "more", "text"),
    [
        ("localhost:8092", {}, "is not the URL of an intake"),
        ("ftp://x/", {}, "is not the URL of an intake"),
        ("http://a b:x", {}, "is not a URL"),
        ("http://x", {"batch_events": 0}, "batch_events=0 must be greater than 0"),
        ("http://x", {"timeout_s": -1.0}, "timeout_s=-1.0 must be greater than 0"),
    ],
)
def test_misuse_raises_an_error(url: str, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Producer(url, **more)


async def test_a_closed_producer_accepts_no_events() -> None:
    producer = Producer("http://127.0.0.1:9")
    for call in (producer.send(event(0)), producer.enqueue(event(0)), producer.flush()):
        with pytest.raises(ProducerClosed):
            await call
    async with producer:
        with pytest.raises(ValueError, match="this producer has none"):
            await producer.losses()
        assert await producer.send() == []
        await producer.enqueue()
    with pytest.raises(ProducerClosed):
        await producer.send(event(0))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("air"), min_size=1, max_size=4), max_size=6),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_each_event_has_the_intakes_last_verdict(
    plan: list[list[str]], batch_events: int, count: int
) -> None:
    """`plan` has a verdict for each event of each request: accepted, invalid, or again."""
    said: dict[int, str] = {}
    order: list[int] = []

    async def script(events: Events) -> Said:
        kinds = plan.pop(0) if plan else ["a"]
        elements: dict[str, list[Any]] = {"invalid": [], "error": []}
        for index, sent in enumerate(events):
            kind = kinds[index % len(kinds)]
            said[sent["n"]] = kind
            if kind == "a":
                order.append(sent["n"])
            else:
                name = "invalid" if kind == "i" else "error"
                elements[name].append(element(name, "why", index=index))
        if not elements["invalid"] and not elements["error"]:
            return TAKEN
        named = len(elements["invalid"]) + len(elements["error"])
        status = 207 if named < len(events) else 500 if elements["error"] else 400
        return Said(status, elements)

    async def check() -> None:
        async with (
            scripted(script) as intake,
            Producer(intake.url, batch_events=batch_events, retry_s=0.001) as p,
        ):
            results = await soon(p.send(*map(event, range(count))))
        for n, result in enumerate(results):
            assert result.event == event(n)
            assert isinstance(result, Accepted) == (said[n] == "a")
            assert isinstance(result, Rejected) == (said[n] == "i")
        assert sorted(order) == [n for n in range(count) if said[n] == "a"], "each once"

    asyncio.run(check())
