"""`tail` as a process of its own, as its users run it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from eventstreams.cli import main
from tests.support.upstream import (
    OK,
    PATIENCE_S,
    QUICK,
    Gateway,
    TailProcess,
    frame,
    gateway,
    refusal,
    upstream,
)

TOPIC = "eventstreams.test"
UNDECLARED = "Warning: the schema has no field n\n"


def _change(n: int) -> str:
    meta = {"dt": f"2026-01-31T12:00:0{n}.000Z"}
    fields = {"wiki": "enwiki", "type": "edit", "user": "Ada", "title": f"Page {n}", "bot": True}
    return json.dumps({"meta": meta, **fields, "length": {"old": 5, "new": 9}})


def test_a_pipe_gets_one_json_object_a_line() -> None:
    with upstream(OK + frame('{"n":1}', "a") + frame('{"n":2}', "b")) as server:
        tail = TailProcess("x,y", "--url", server.url, "-n", 2)
        assert tail.end() == (b'{"n":1}\n{"n":2}\n', "")
        assert tail.code == 0
        request = server.requests.get(timeout=PATIENCE_S)
    assert request.target == "/v2/stream/x,y"
    assert request.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in request.headers


def test_pretty_output_has_time_wiki_type_user_and_title() -> None:
    evil = json.dumps({"title": "\x1b[2J", "x": "\u202e"}, ensure_ascii=False)
    with upstream(OK + frame(_change(1), "a") + frame(evil, "b")) as server:
        stdout, _ = TailProcess(server.url + "/v2/stream/x", "-n", 2, "--pretty").end()
    first, second = stdout.decode().splitlines()
    assert " ".join(first.split()) == "2026-01-31 12:00:01 enwiki edit Ada (bot) Page 1 (+4)"
    assert second.isprintable()


def test_tail_reconnects_with_the_last_id_that_it_wrote() -> None:
    torn = frame('{"n":2}', "b")[:-5]
    answers = (
        OK + QUICK + frame('{"n":1}', "a") + torn,
        OK + frame('{"n":2}', "b") + b": comment\n\n" + b"id: c\n\n",
        OK + frame('{"n":3}', "d"),
    )
    with upstream(*answers) as server:
        tail = TailProcess("x", "--url", server.url, "-n", 3, "--since", "2026-01-01T00:00+01:00")
        stdout, stderr = tail.end()
        requests = [server.requests.get(timeout=PATIENCE_S) for _ in answers]
    assert stdout == b'{"n":1}\n{"n":2}\n{"n":3}\n'
    assert [request.headers.get("last-event-id") for request in requests] == [None, "a", "c"]
    assert requests[0].target == "/v2/stream/x?since=2026-01-01T00%3A00%2B01%3A00"
    assert stderr.count("the server ended the stream; retrying in 0.0 s") == 2


def test_a_retry_line_at_the_end_of_a_stream_sets_the_delay() -> None:
    answers = (OK + frame('{"n":1}', "a") + b"retry: 7\n", OK + frame('{"n":2}', "b"))
    with upstream(*answers) as server:
        stdout, stderr = TailProcess("x", "--url", server.url, "-n", 2).end()
    assert stdout == b'{"n":1}\n{"n":2}\n'
    assert stderr == "the server ended the stream; retrying in 0.0 s\n"


def test_a_stream_that_is_complete_ends_it_with_exit_code_0(tmp_path: Path) -> None:
    done = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    state = tmp_path / "state"
    for answers in ((OK + QUICK + frame('{"n":1}', "a"), done), (done,)):
        with upstream(*answers) as server:
            tail = TailProcess("x", "--url", server.url, "--state", state)
            stdout, stderr = tail.end()
        assert tail.code == 0
        assert stdout == (b'{"n":1}\n' if len(answers) == 2 else b"")
        assert stderr.splitlines()[-1] == "the stream is complete"
        assert state.read_text() == "a\n"


@pytest.mark.parametrize(
    ("sent", "header"),
    [
        ("abc ", "abc"),
        ("\tabc\t", "abc"),
        ("a  b", "a  b"),
        ("caf\u00e9\u2026", "caf\u00e9\u2026"),
        ("a\u00a0b\u2028c", "a\u00a0b\u2028c"),
        ("a\x0bb", "first"),
        ("a\x01b", "first"),
        ("a\x7fb", "first"),
        ("a\0b", "first"),
        ("", None),
    ],
)
def test_tail_reconnects_with_any_id(sent: str, header: str | None, tmp_path: Path) -> None:
    state = tmp_path / "state"
    answers = (
        OK + QUICK + frame('{"n":1}', "first") + frame('{"n":2}', sent),
        OK + b'data: {"n":3}\n\n',
    )
    with upstream(*answers) as server:
        tail = TailProcess("x", "--url", server.url, "-n", 3, "--state", state)
        stdout, stderr = tail.end()
        server.requests.get(timeout=PATIENCE_S)
        request = server.requests.get(timeout=PATIENCE_S)
    assert stdout == b'{"n":1}\n{"n":2}\n{"n":3}\n', stderr
    assert request.headers.get("last-event-id") == header
    unfit = any(character in sent for character in "\x0b\x01\x7f")
    assert stderr.count("has a character that HTTP cannot carry") == unfit
    kept = state.read_text().removesuffix("\n")
    assert kept == (header or "first")
    with upstream(OK + frame('{"n":4}', "z")) as server:
        tail = TailProcess("x", "--url", server.url, "-n", 1, "--state", state)
        assert tail.end()[0] == b'{"n":4}\n'
        assert server.requests.get(timeout=PATIENCE_S).headers["last-event-id"] == kept


def test_streams_of_other_servers_are_read_as_html_specifies() -> None:
    stream = (
        OK.removesuffix(b":ok\n\n")
        + b"\xef\xbb\xbfdata: 1\r\n\r\n:\r\rdata\rdata: \r\r"
        + "data: \u2028\u0085\n\nevent: a\n\ndata: 4\n\ndata: torn".encode()
    )
    with upstream(stream + b"\n\n") as server:
        stdout, _ = TailProcess("x", "--url", server.url, "-n", 5, "--json").end()
    assert stdout.decode().split("\n")[:-1] == ["1", " ", "\u2028\u0085", "4", "torn"]


@pytest.mark.parametrize("kind", ["text/event-streams", "x text/event-stream", ""])
def test_an_answer_of_another_type_is_refused(kind: str) -> None:
    with upstream(refusal("200 OK", b"data: 1\n\n", f"content-type: {kind}")) as server:
        tail = TailProcess("x", "--url", server.url)
        stdout, stderr = tail.end()
    assert (tail.code, stdout) == (1, b"")
    assert "not text/event-stream" in stderr


def test_a_token_is_read_anew_for_each_connection(tmp_path: Path) -> None:
    token = tmp_path / "token"
    os.mkfifo(token)  # a writer of this pipe waits for its reader
    answers = (OK + QUICK + frame('{"n":1}', "a"), OK + frame('{"n":2}', "b"))
    with upstream(*answers) as server:
        tail = TailProcess("x", "--url", server.url, "-n", 2, "--token-file", token)
        for text in ("first\n", "second"):
            token.write_text(text)
            request = server.requests.get(timeout=PATIENCE_S)
            assert request.headers["authorization"] == f"Bearer {text.strip()}"
        assert tail.end()[0] == b'{"n":1}\n{"n":2}\n'
    with upstream() as server:
        missing = TailProcess("x", "--url", server.url, "--token-file", tmp_path / "none")
        _, stderr = missing.end()
    assert missing.code == 1
    assert stderr == f"Error: --token-file: {tmp_path / 'none'}: No such file or directory\n"


def test_errors_and_gaps_go_to_standard_error() -> None:
    gap = frame('{"message":"too old","cause":"retention"}', "g", "gap")
    error = frame('{"message":"no log"}', "g", "error")
    answers = (OK + QUICK + gap + error, OK + frame('{"n":1}', "h"))
    with upstream(*answers) as server:
        stdout, stderr = TailProcess("x", "--url", server.url, "-n", 1).end()
        server.requests.get(timeout=PATIENCE_S)
        assert server.requests.get(timeout=PATIENCE_S).headers["last-event-id"] == "g"
    assert stdout == b'{"n":1}\n'
    assert stderr.splitlines()[:2] == ['gap: too old {"cause":"retention"}', "error: no log"]


def test_a_warning_of_the_gateway_is_printed_once() -> None:
    warned = OK.replace(b"\r\n\r\n", b"\r\nx-eventstreams-warning: no field wiky\r\n\r\n")
    with upstream(warned + QUICK, warned + frame('{"n":1}', "a")) as server:
        stdout, stderr = TailProcess("x", "--url", server.url, "-n", 1).end()
    assert stdout == b'{"n":1}\n'
    assert stderr.splitlines()[0] == "Warning: no field wiky"
    assert stderr.count("wiky") == 1


def test_a_refusal_is_not_repeated_by_its_title() -> None:
    body = b'{"title":"Invalid Filter","detail":"Invalid filter at line 1: no"}'
    with upstream(refusal("400 Bad Request", body)) as server:
        _, stderr = TailProcess("x", "--url", server.url).end()
    assert stderr == "Error: 400 Invalid filter at line 1: no\n"


def test_passing_refusals_are_tried_again_and_final_ones_are_not() -> None:
    busy = b'{"status":503,"title":"Service Unavailable","detail":"full"}'
    wrong = b'{"message":"Topics x are not available for consumption.","statusCode":404}\n'
    answers = (
        OK + QUICK,
        refusal("503 Service Unavailable", busy, "retry-after: 0"),
        refusal("429 Too Many Requests", b"slow down", "retry-after: 1"),
        refusal("404 Not Found", wrong),
    )
    with upstream(*answers) as server:
        tail = TailProcess("x", "--url", server.url)
        stdout, stderr = tail.end()
    assert tail.code == 1
    assert stdout == b""
    assert stderr.splitlines()[1:] == [
        "503 Service Unavailable: full; retrying in 0.0 s",
        "429 Too Many Requests: slow down; retrying in 1.0 s",
        f"Error: 404 Topics x are not available for consumption; {server.url}/v2/ui/ lists the "
        "streams",
    ]


def test_other_answers_than_streams_are_reported_in_one_line() -> None:
    with upstream(refusal("200 OK", b"<html>", "content-type: text/html")) as server:
        tail = TailProcess(server.url + "/page")
        _, stderr = tail.end()
    assert tail.code == 1
    (line,) = stderr.splitlines()
    assert "text/html" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_the_last_id_kept(
    number: signal.Signals, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with upstream(OK + frame('{"n":1}', "a") + frame('{"n":2}', "b")) as server:
        tail = TailProcess("x", "--url", server.url, "--state", state)
        assert [tail.stdout.readline(), tail.stdout.readline()] == [b'{"n":1}\n', b'{"n":2}\n']
        assert tail.end(number) == (b"", "")
    assert tail.code == 0
    assert state.read_text() == "b\n"
    assert list(tmp_path.iterdir()) == [state]


def test_a_kill_repeats_only_the_events_that_arrived_last(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with upstream(OK + frame('{"n":1}', "a")) as server:
        tail = TailProcess("x", "--url", server.url, "--state", state)
        assert tail.stdout.readline() == b'{"n":1}\n'
        server.send(frame('{"n":2}', "b"))
        assert tail.stdout.readline() == b'{"n":2}\n'
        tail.end(signal.SIGKILL)
    assert state.read_text() in ("a\n", "b\n")


def test_a_closed_pipe_ends_tail_and_only_written_ids_are_kept(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    frames = [frame(json.dumps({"n": n, "pad": "x" * 1000}), str(n)) for n in range(2000)]
    with upstream(OK + b"".join(frames)) as server:
        tail = TailProcess("x", "--url", server.url, "--state", state)
        assert json.loads(tail.stdout.readline())["n"] == 0
        tail.stdout.close()
        stderr = tail.stderr.read()
        assert tail.process.wait(PATIENCE_S) == 0
        tail.stderr.close()
    assert stderr == b""
    assert 0 <= int(state.read_text()) < 1999


def test_a_blocked_reader_does_not_prevent_the_end(tmp_path: Path) -> None:
    state = tmp_path / "state"
    frames = [frame(json.dumps({"n": n, "pad": "x" * 9000}), str(n)) for n in range(2000)]
    with upstream(OK + b"".join(frames)) as server:
        tail = TailProcess("x", "--url", server.url, "--state", state)
        first = tail.stdout.readline()
        tail.process.send_signal(signal.SIGTERM)
        assert tail.process.wait(PATIENCE_S) == 0
        rest, _ = tail.end()
    whole = [line for line in (first + rest).splitlines(keepends=True) if line.endswith(b"\n")]
    assert int(state.read_text()) == json.loads(whole[-1])["n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://h:1/"], "names no stream; try http://h:1/v2/stream/NAME"),
        (["ftp://h/x"], "'ftp://h/x' is not an http or https URL, such as https://"),
        (["h:1/v2/stream/x"], "'h:1/v2/stream/x' is not an http or https URL, such as https://"),
        (["x", "--url", "h:1"], "'h:1' is not an http or https URL, such as https://"),
        (["http://h:xx/y"], "is not a URL"),
        (["x", "-n", "0"], "-n"),
        (["x", "--state", "."], "--state: . is a directory"),
        (["x", "--state", "nope/file"], "--state: no file can be written"),
        (["x", "--state", "binary"], "--state:"),
    ],
)
def test_wrong_usage_has_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\x00")
    with open("out", "wb") as out:
        monkeypatch.setattr("eventstreams.cli.tail._stdout_fd", out.fileno)
        result = CliRunner().invoke(main, ["tail", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway") / "data", "--no-demo") as running:
        yield running


def _produce(served: Gateway, first: int, count: int) -> None:
    lines = "".join(f'{{"n":{n},"pad":"{"x" * 400}"}}\n' for n in range(first, first + count))
    result = CliRunner().invoke(
        main, ["produce", "--stream", "test", "--data-dir", str(served.data)], input=lines
    )
    assert result.exit_code == 0, result.output


def test_events_appended_beside_a_running_gateway_are_sent_at_once(served: Gateway) -> None:
    tail = TailProcess("test", "--url", served.url, "--since", "0", "-n", 1)
    _produce(served, 0, 1)
    document = json.loads(tail.stdout.readline())
    assert document["n"] == 0
    assert document["meta"]["topic"] == TOPIC
    assert tail.end() == (b"", "")


def test_repeated_kills_lose_nothing_and_repeat_only_the_last_events(
    served: Gateway, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    _produce(served, 1, 3000)
    seen: list[int] = []
    for lines in (1, 300, 7, 901, 40):
        tail = TailProcess("test", "--url", served.url, "--since", "0", "--state", state)
        run = [json.loads(tail.stdout.readline())["meta"]["offset"] for _ in range(lines)]
        stdout, _ = tail.end(signal.SIGKILL)
        whole = [line for line in stdout.splitlines(keepends=True) if line.endswith(b"\n")]
        run += [json.loads(line)["meta"]["offset"] for line in whole]
        assert run == list(range(run[0], run[0] + len(run)))
        assert run[0] <= (seen[-1] + 1 if seen else 0)
        seen += run
    tail = TailProcess("test", "--url", served.url, "--since", "0", "--state", state, "-n", 1)
    _produce(served, 3001, 1)
    (offset,) = [json.loads(line)["meta"]["offset"] for line in tail.end()[0].splitlines()]
    assert offset <= seen[-1] + 1


def test_runs_ended_by_signals_lose_and_repeat_nothing(served: Gateway, tmp_path: Path) -> None:
    _produce(served, 10_000, 1000)
    seen: list[int] = []
    for lines in (1, 50, 7, 300):
        tail = TailProcess(
            "test", "--url", served.url, "--since", "0", "--state", tmp_path / "state"
        )
        out = [tail.stdout.readline() for _ in range(lines)]
        stdout, _ = tail.end(signal.SIGTERM)
        text = b"".join(out) + stdout
        seen += [
            json.loads(line)["meta"]["offset"]
            for line in text.splitlines(keepends=True)
            if line.endswith(b"\n")
        ]
    assert seen == list(range(len(seen)))


def test_bounded_streams_of_the_gateway_are_complete(served: Gateway) -> None:
    _produce(served, 20_000, 3)
    tail = TailProcess(f"{served.url}/v2/stream/test?since=earliest&limit=3")
    stdout, stderr = tail.end()
    assert tail.code == 0
    assert len(stdout.splitlines()) == 3
    assert stderr == "the stream is complete\n", "it asks once more, without a word"


def test_options_choose_events_fields_and_the_end(served: Gateway) -> None:
    _produce(served, 30_000, 30)
    options = ("--filter", "event.n >= 30000 && event.n % 2 == 0", "--fields", "n")
    tail = TailProcess(
        *("test", "--url", served.url, "--since", "earliest", "--limit", 3, "--no-canary"), *options
    )
    assert tail.end() == (
        b'{"n":30000}\n{"n":30002}\n{"n":30004}\n',
        UNDECLARED + "the stream is complete\n",
    )
    assert tail.code == 0


def test_until_accepts_now(served: Gateway) -> None:
    tail = TailProcess("test", "--url", served.url, "--since", "now", "--until", "now")
    warning = "Warning: until is in the past and since is missing, so there are no events\n"
    assert tail.end() == (b"", f"{warning}the stream is complete\n")
    assert tail.code == 0


def test_a_bounded_stream_without_events_is_complete(served: Gateway) -> None:
    _produce(served, 40_000, 1)
    tail = TailProcess(
        *("test", "--url", served.url, "--since", "-15m", "--until", "-10m"),
        *("--filter", "event.n == -1"),
    )
    assert tail.end() == (b"", UNDECLARED + "the stream is complete\n")
    assert tail.code == 0


def test_a_rejected_filter_shows_the_mistake(served: Gateway) -> None:
    tail = TailProcess("test", "--url", served.url, "--filter", "event.n = 1")
    _, stderr = tail.end()
    assert tail.code == 1
    first, text, caret = stderr.splitlines()
    assert "write == to compare" in first
    assert text[caret.index("^")] == "="


def test_a_stopped_server_is_asked_again_after_its_retry_time() -> None:
    done = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    answers = (OK + b"id: a\n\n" + QUICK, OK + QUICK, OK + frame('{"n":1}', "b"), done)
    with upstream(*answers) as server:
        tail = TailProcess("x", "--url", server.url, "--limit", 2)
        stdout, stderr = tail.end()
        requests = [server.requests.get(timeout=PATIENCE_S) for _ in answers]
    assert (tail.code, stdout) == (0, b'{"n":1}\n')
    assert stderr.count("the server ended the stream; retrying") == 1, "the others are silent"
    assert [request.headers.get("last-event-id") for request in requests] == [None, "a", "a", "b"]
    assert requests[0].target == "/v2/stream/x?limit=2&heartbeat=checkpoint"


def test_refusals_of_the_gateway_are_readable(served: Gateway) -> None:
    tail = TailProcess("nope", "--url", served.url)
    _, stderr = tail.end()
    assert tail.code == 1
    assert (
        stderr
        == "Error: 400 Stream Not Found: Invalid streams: nope; GET /v2/streams lists the names\n"
    )


def _log_of(folder: Path) -> Path:
    data = folder / "data"
    lines = "".join(f'{{"n":{n}}}\n' for n in range(3))
    result = CliRunner().invoke(
        main, ["produce", "--stream", "test", "--data-dir", str(data)], input=lines
    )
    assert result.exit_code == 0, result.output
    return data


def test_a_log_is_read_without_a_gateway(tmp_path: Path) -> None:
    data = _log_of(tmp_path)
    options = ("--data-dir", data, "--since", "earliest", "--fields", "n")
    tail = TailProcess("test", *options, "--limit", 2, "--filter", "event.n > 0")
    assert tail.end() == (b'{"n":1}\n{"n":2}\n', "the stream is complete\n")
    assert tail.code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_a_tail_of_a_log(tmp_path: Path, number: signal.Signals) -> None:
    tail = TailProcess("test", "--data-dir", _log_of(tmp_path), "--since", "earliest")
    assert json.loads(tail.stdout.readline())["n"] == 0
    children = psutil.Process(tail.process.pid).children(recursive=True)
    assert len(children) == 2, "a shell and a gateway"
    tail.end(number)
    _, alive = psutil.wait_procs(children, PATIENCE_S)
    assert not alive


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "--data-dir", "nowhere"], "there is no log in nowhere"),
        (["test", "--config", "x.yaml"], "--config needs --data-dir or --kafka"),
        (["http://a/v2/stream/b", "--data-dir", "d"], "a URL has no effect with --data-dir"),
        (["test", "--kafka", "a"], "'a' is not HOST:PORT"),
    ],
)
def test_options_of_logs_that_do_not_fit_are_usage_errors(
    arguments: list[str], message: str
) -> None:
    tail = TailProcess(*arguments)
    _, stderr = tail.end()
    assert tail.code == 2
    assert message in stderr


def test_a_damaged_log_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite3").write_bytes(b"no log" * 1000)
    tail = TailProcess("test", "--data-dir", tmp_path)
    _, stderr = tail.end()
    assert tail.code == 1
    assert stderr.startswith("Error: the log cannot be read: cannot open the log: ")
