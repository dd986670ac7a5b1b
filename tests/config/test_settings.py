"""All problems of a settings file are reported with their paths; all settings are documented."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from eventstreams.config import settings
from eventstreams.config.settings import Settings, describe, with_paths_from
from eventstreams.config.validation import load
from eventstreams.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "eventstreams.yaml"


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    found = refused.value.problems
    begin = re.compile(rf"{re.escape(str(path))}(:\d+)?: ")
    assert all(begin.match(problem) for problem in found)
    assert str(refused.value) == "\n".join(found)
    return [begin.sub("", problem, count=1) for problem in found]


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "http: {}"])
def test_an_empty_file_yields_the_defaults(path: Path, text: str) -> None:
    path.write_text(text)
    assert load(path) == Settings()


def test_unset_settings_keep_their_defaults(path: Path) -> None:
    path.write_text(
        "http: {port: 0, cors: false}\nfanout: {heartbeat_s: 7}\nlog: {backend: memory}"
    )
    found = load(path)
    assert (found.http.port, found.http.cors, found.fanout.heartbeat_s) == (0, False, 7.0)
    assert found.log.backend == "memory"
    assert found.fanout.pace_max_ms == Settings().fanout.pace_max_ms


def test_all_problems_are_reported_with_their_paths(path: Path) -> None:
    found = problems(
        path,
        """
        htpp: {}
        http: {port: 99999, hots: x, cors: true, backlog: 0}
        log:
          backend: postgres
          sqlite: {sync: 5, retention_age_s: -1}
          kafka: {bootstrap_servers: here, ssl_check_hostname: 1}
        fanout: {heartbeat_s: soon, drain_s: 0, pace_max_ms: 1.5}
        limits: []
        demo: {rate: -1}
        """,
    )
    assert [problem.split(":")[0] for problem in found] == [
        "htpp",
        "http.port",
        "http.hots",
        "http.cors",
        "http.backlog",
        "log.backend",
        "log.sqlite.sync",
        "log.sqlite.retention_age_s",
        "log.kafka.bootstrap_servers",
        "log.kafka.ssl_check_hostname",
        "fanout.heartbeat_s",
        "fanout.drain_s",
        "fanout.pace_max_ms",
        "limits",
        "demo.rate",
    ]
    assert "did you mean http?" in found[0]
    assert "expected a mapping of settings, got list" in found[-2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "log: {backend: sqlit}",
            "log.backend: 'sqlit' is not one of: sqlite, memory, kafka",
        ),
        ("only: both", "only: 'both' is not one of: gateway, intake"),
        ("http: {port: eighty}", "http.port: expected a whole number, got text"),
        ("http: {port: 99999}", "http.port: expected a whole number <= 65535"),
        ("schemas: schemas", "schemas: expected a list, got text"),
        ("schemas: [a, 5]", "schemas[1]: expected text, got a whole number"),
        ("log: {sqlite: {retention_age_s: 2026-01-31}}", "retention_age_s: expected a number or"),
        (
            "log: {backend: kafka, kafka: {bootstrap_servers: [5]}}",
            "log.kafka.bootstrap_servers[0]: expected text, got a whole number",
        ),
        (
            "relays: {good: {url: 'http://h/'}, bad: {url: 'http://h/', steams: [a]}}",
            "relays.bad.steams: unknown setting; did you mean streams?",
        ),
        ("relays: {bad: {}}", "relays.bad: url is missing"),
    ],
)
def test_a_problem_says_in_plain_words_what_was_expected(
    path: Path, text: str, expected: str
) -> None:
    [found] = problems(path, text)
    assert expected in found
    assert "`" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: {backend: kafka}", ["log.kafka.bootstrap_servers: required"]),
        ('log: {kafka: {bootstrap_servers: ["h:²"]}}', ["log.kafka.bootstrap_servers: "]),
        ('shared: {redis_url: "redis://[::1:6379/0"}', ["shared.redis_url: "]),
        ("shared: {redis_url: 'redis://127.0.0.1:abc/0'}", ["shared.redis_url: "]),
        ("shared: {redis_url: 'redis://h:70000'}", ["shared.redis_url: "]),
        ("shared: {redis_url: 'http://h'}", ["shared.redis_url: "]),
        ("access: {jwks_url: 'https://'}", ["access.jwks_url: "]),
        ("access: {jwks_url: 'https://[x'}", ["access.jwks_url: "]),
        (
            "log: {kafka: {bootstrap_servers: ['a', 'b:0', ':9', 'c:x', 'd:70000', 'e:9092']}}",
            ["log.kafka.bootstrap_servers: "] * 5,
        ),
        ("log: {kafka: {security_protocol: SASL_SSL}}", ["log.kafka: SASL needs"]),
        (
            "log: {kafka: {security_protocol: SASL_SSL, sasl_username: u}}",
            ["log.kafka: SASL needs"],
        ),
        ("log: {kafka: {ssl_keyfile: k}}", ["log.kafka: ssl_certfile and ssl_keyfile"]),
        ("log: {kafka: {ssl_certfile: k}}", ["log.kafka: ssl_certfile and ssl_keyfile"]),
        ("http: {tls_certfile: c}", ["http.tls_certfile: needs http.tls_keyfile"]),
        ("http: {tls_keyfile: k}", ["http.tls_keyfile: needs http.tls_certfile"]),
        ("http: {tls_keyfile_password_file: p}", ["http.tls_keyfile_password_file: needs"]),
        ("fanout: {batch_bytes_max: 10, cache_bytes_max: 9}", ["fanout.batch_bytes_max: must"]),
    ],
)
def test_contradictory_settings_are_reported(path: Path, text: str, expected: list[str]) -> None:
    found = problems(path, text)
    assert len(found) == len(expected)
    assert all(one.startswith(begin) for one, begin in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "text", ["5", "[]", "text", "http: 5", "http:", "http: {port: null}", "1: 2"]
)
def test_malformed_values_are_refused(path: Path, text: str) -> None:
    assert len(problems(path, text)) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"http: [\n", r":2:1: not YAML: "),
        (b"a: b: c\n", r":1:5: not YAML: "),
        (b"http: {port: 1}\nhttp: {}\n", r":2:1: not YAML: the key 'http' appears twice"),
        (b"\xff\xfe\xff", r"not (YAML|UTF-8)"),
        (b"? [a]\n: 1\n", r":1:3: not YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", r"not YAML"),
        (b"http:\n  csp: 2024-13-45\n", r":2:8: not YAML: the value is not a valid timestamp"),
        (b"a: 2001-01-01T00:00:00+99:99\n", r":1:4: not YAML: the value is not a valid timestamp"),
        (b"a: [0b_]\n", r":1:5: not YAML: the value is not a valid int"),
        (b"a: " + b"9" * 5_000, r":1:4: not YAML: the value is not a valid int"),
        (b"a: !!int ''\n", r":1:4: not YAML: the value is not a valid int"),
        (b"a: !!timestamp x\n", r":1:4: not YAML: the value is not a valid timestamp"),
        (b"a: !!bool x\n", r":1:4: not YAML: the value is not a valid bool"),
        (b"[" * 5_000, r": nested too deeply"),
        (b"a: '\0'\n", r": not YAML: unacceptable character"),
    ],
)
def test_invalid_yaml_is_reported_with_its_place(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(path)
    [problem] = refused.value.problems
    assert problem.startswith(str(path))
    assert re.search(reason, problem)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (r'http: {homepage: "\ud800"}', ["http.homepage"]),
        (
            r'{http: {host: "a\udfff", csp: "\udc80"}, catalogue: "\ud83d\ude00"}',
            ["http.host", "http.csp", "catalogue"],
        ),
        (r'log: {backend: "\ud800"}', ["log.backend"]),
        (
            r'log: {kafka: {bootstrap_servers: ["a:1", "\ud800:1"]}}',
            ["log.kafka.bootstrap_servers[1]"],
        ),
        (r'http: {"\udbff": 1}', [r"http.\udbff"]),
        (r'"\ud800"', ["the file"]),
        (r'{http: &a {homepage: "\ud800"}, log: *a}', ["http.homepage"]),
    ],
)
def test_unpaired_surrogates_are_refused_everywhere(
    path: Path, text: str, places: list[str]
) -> None:
    found = problems(path, text)
    assert found == [f"{place}: contains half of a surrogate pair" for place in places]
    "\n".join(found).encode()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (r'catalogue: "a\0"', ["catalogue"]),
        (r'{log: {data_dir: "\0"}, http: {host: "\0"}}', ["log.data_dir", "http.host"]),
        (
            r'log: {kafka: {bootstrap_servers: ["a:1", "\0:1"], ssl_cafile: "\0"}}',
            ["log.kafka.bootstrap_servers[1]", "log.kafka.ssl_cafile"],
        ),
    ],
)
def test_nul_characters_are_refused_everywhere(path: Path, text: str, places: list[str]) -> None:
    assert problems(path, text) == [f"{place}: contains a NUL character" for place in places]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_an_impossible_path_is_reported(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(Path(name))
    [problem] = refused.value.problems
    assert problem.startswith(f"{name!a}: ")


@given(
    st.text(st.characters(codec="utf-8"), max_size=40)
    | st.text("!:-0129xbo_.&*[]{} eT~", max_size=12)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(text.encode())
        file.flush()
        with contextlib.suppress(ConfigError):
            assert isinstance(load(Path(file.name)), Settings)


@pytest.mark.parametrize("name", ["cors", "csp"])
@pytest.mark.parametrize("value", ["", "\u65e5", "*\r\nx: y", "*\n", "\x00", "\x7f"])
def test_invalid_header_values_are_refused(path: Path, name: str, value: str) -> None:
    [problem] = problems(path, json.dumps({"http": {name: value}}))
    assert problem.startswith(f"http.{name}: ")


def test_a_missing_file_is_reported(path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert refused.value.problems == [f"{path}: No such file or directory"]


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.text("ab:,[ 5\u00e9\u65e5"),
)


@examples(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([p for p, _ in describe()]), values, max_size=6))
@example(chosen={"fanout.cache_bytes_max": 1})
def test_any_document_is_accepted_unchanged_or_refused(
    path: Path, chosen: dict[str, object]
) -> None:
    document: dict[str, object] = {}
    for where, value in chosen.items():
        *sections, name = where.split(".")
        inner = document
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[name] = value
    path.write_text(json.dumps(document))
    try:
        found = load(path)
    except ConfigError as error:
        for problem in error.problems:
            text = re.sub(r"^(:\d+)?: ", "", problem.removeprefix(str(path)))
            named = text.split(":")[0]
            is_chosen = any(where.startswith(named) or where in text for where in chosen)
            assert is_chosen or named == "log.kafka"
        return
    as_read = dict(describe_values(found))
    assert all(as_read[where] == value for where, value in chosen.items())


def describe_values(section: settings.Section, path: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name in section.__struct_fields__:
        value = getattr(section, name)
        where = f"{path}{name}"
        if isinstance(value, settings.Section):
            found += describe_values(value, f"{where}.")
        else:
            found.append((where, value))
    return found


def test_every_path_in_a_file_is_relative_to_that_file(path: Path) -> None:
    names = [
        name
        for name, _ in describe()
        if name.endswith(("_file", "certfile", "keyfile", "cafile", "_dir", "producer_keys"))
    ]
    assert len(names) == 13
    document: dict[str, object] = {"catalogue": "x/y", "schemas": ["x/y", "/x"]}
    document["relays"] = {"a": {"url": "http://h/v2/stream/x", "token_file": "x/y"}}
    document["http"] = {"homepage": "x/y"}
    for name in names:
        within = document
        *sections, last = name.split(".")
        for section in sections:
            within = within.setdefault(section, {})  # type: ignore[assignment]
        within[last] = "x/y"
    path.write_text(json.dumps(document))
    found = with_paths_from(load(path), Path("/etc/e"))
    assert {attrgetter(name)(found) for name in (*names, "catalogue")} == {"/etc/e/x/y"}
    assert found.schemas == ("/etc/e/x/y", "/x")
    assert found.relays["a"].token_file == "/etc/e/x/y"
    assert found.relays["a"].url == "http://h/v2/stream/x"
    assert found.http.homepage == "x/y"


def test_describe_lists_every_setting_with_its_default() -> None:
    assert list(describe()) == describe_values(Settings())


def test_the_documentation_lists_the_settings_of_the_code() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "_settings.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs" / "settings.md").read_text() == made.stdout, "run scripts/docs"
    documented = re.findall(r"^\| `([a-z0-9_.]+)` \|", made.stdout, re.MULTILINE)
    assert sorted(documented) == sorted(path for path, _ in describe()), "one row for each"


def test_the_shipped_files_are_valid() -> None:
    for file in ("eventstreams.yaml", "kafka.yaml"):
        load(ROOT / "config" / file)
