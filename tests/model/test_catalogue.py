"""The catalogue: the streams that can be read, and their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eventstreams.config.catalogue import load_catalogue
from eventstreams.errors import ConfigError, UnknownStream
from eventstreams.model.catalogue import Catalogue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.yaml"


def load(path: Path, text: str) -> Catalogue:
    path.write_text(text)
    return load_catalogue(path)


def problems(path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(path, text)
    found = refused.value.problems
    begin = re.compile(rf"{re.escape(str(path))}(:\d+)?: ")
    assert all(begin.match(problem) for problem in found)
    return [begin.sub("", problem, count=1) for problem in found]


def test_a_stream_keeps_the_order_of_its_topics(path: Path) -> None:
    catalogue = load(path, "edits: {topics: [b.edits, a.edits, b.edits]}")
    assert catalogue.get("edits").topics == ("b.edits", "a.edits")
    assert catalogue.topics == {"a.edits", "b.edits"}


def test_a_stream_without_topics_has_one_for_each_prefix(path: Path) -> None:
    catalogue = load(path, "edits: {topic_prefixes: [eqiad., codfw.]}\nplain:")
    assert catalogue.get("edits").topics == ("eqiad.edits", "codfw.edits")
    assert catalogue.get("plain").topics == ("plain",)


def test_topics_win_over_prefixes(path: Path) -> None:
    assert load(path, "e: {topics: [t], topic_prefixes: [a.]}").get("e").topics == ("t",)


@pytest.mark.parametrize(
    "text",
    [
        "e: {topics: [t]}",
        "streams: {e: {topics: [t]}}",
        "streams: {e: {stream: e, topics: [t]}}",
        "[{stream: e, topics: [t]}]",
        "streams: [{stream: e, topics: [t]}]",
        "streams: {e: }\ndefaults: {topics: [t]}",
    ],
)
def test_every_form_of_the_file_is_read(path: Path, text: str) -> None:
    assert load(path, text).get("e").topics == ("t",)


@pytest.mark.parametrize(
    "text",
    [
        "streams: {a: {}, 0: {stream: b, topics: [t]}}",
        "{a: {}, 0: {stream: b, topics: [t]}}",
        '{"streams": {"a": {}, "0": {"stream": "b", "topics": ["t"]}}}',
    ],
)
def test_an_entry_with_a_numeric_key_is_named_by_its_stream_field(path: Path, text: str) -> None:
    catalogue = load(path, text)
    assert list(catalogue.streams) == ["a", "b"]
    assert catalogue.get("b").topics == ("t",)
    assert catalogue.configs.select(None, {}).keys() == {"a", "b"}


def test_a_pattern_may_have_a_numeric_key(path: Path) -> None:
    configs = load(path, "streams: {a: {}, 0: {stream: '/^b/', schema_title: t}}").configs
    found = configs.get("bcd")
    assert found is not None
    assert found.schema_title == "t"


def test_two_entries_of_one_stream_are_reported(path: Path) -> None:
    text = "streams: {a: {}, 0: {stream: a}}"
    assert problems(path, text) == ["streams.a: declared twice"]


def test_defaults_are_merged_deeply_and_lists_replaced(path: Path) -> None:
    catalogue = load(
        path,
        """
        defaults: {topic_prefixes: [a., b.], schema_title: s, producers: {x: {y: 1}}}
        streams:
          one:
          two: {topic_prefixes: [c.], producers: {x: {z: 2}}, description: d}
        """,
    )
    one, two = catalogue.get("one"), catalogue.get("two")
    assert (one.topics, one.schema_title) == (("a.one", "b.one"), "s")
    assert (two.topics, two.schema_title, two.description) == (("c.two",), "s", "d")


def test_aliases_name_the_same_stream(path: Path) -> None:
    catalogue = load(path, "edits: {topics: [t], stream_aliases: [rc, recentchange]}\nb:")
    assert catalogue.get("rc") is catalogue.get("edits")
    assert catalogue.names == ["b", "edits", "rc", "recentchange"]
    assert list(catalogue.streams) == ["edits", "b"]
    assert catalogue.resolve(["rc", "edits", "recentchange"]).topics == ("t",)


def test_allowed_topics_are_read_only_if_named_in_the_id(path: Path) -> None:
    catalogue = load(path, "e: {topics: [eqiad.e], topics_allowed: [codfw.e]}")
    selection = catalogue.resolve(["e"])
    assert selection.topics == ("eqiad.e",)
    assert selection.allowed == {"eqiad.e", "codfw.e"}
    assert catalogue.topics == {"eqiad.e", "codfw.e"}


def test_streams_are_resolved_in_order_each_topic_once(path: Path) -> None:
    catalogue = load(path, "a: {topics: [x, y]}\nb: {topics: [y, z]}\nc: {topics: [w]}")
    assert catalogue.resolve(["b", "a"]).topics == ("y", "z", "x")
    assert catalogue.resolve(["b", "a"]).allowed == {"x", "y", "z"}


def test_only_unknown_names_are_reported(path: Path) -> None:
    catalogue = load(path, "a:")
    with pytest.raises(UnknownStream) as refused:
        catalogue.resolve(["no", "a", ""])
    assert refused.value.names == ["no", ""]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("recentchanges", "did you mean recentchange?"),
        ("codfw.mw.rc", "codfw.mw.rc is a topic of the stream mw.rc"),
        ("quite-another", "GET /v2/streams lists the names"),
    ],
)
def test_an_unknown_name_gets_the_nearest_streams(path: Path, name: str, hint: str) -> None:
    topics = "topics: [eqiad.mw.rc], topics_allowed: [codfw.mw.rc]"
    aliases = "stream_aliases: [recentchange, recent-change]"
    catalogue = load(path, f"mw.rc: {{{topics}, {aliases}}}")
    with pytest.raises(UnknownStream) as refused:
        catalogue.resolve(["mw.rc", name])
    assert str(refused.value) == f"Invalid streams: {name}; {hint}"


def test_streams_declared_by_patterns_cannot_be_read(path: Path) -> None:
    catalogue = load(path, "a:\n/^mediawiki\\.job\\..+/: {topics: ['/x/']}")
    assert catalogue.names == ["a"]
    assert catalogue.topics == {"a"}


def test_all_problems_are_reported_with_their_paths(path: Path) -> None:
    found = problems(
        path,
        """
        more: 1
        streams:
          a: {topics: []}
          b: {topics: ["x y"]}
          "c d": {topics: [t]}
          e: {topic: t}
          f: {topics: 5}
          g: {stream: h}
          i: {topics: [".."]}
          j: {topics: [t], stream_aliases: [k, "l m"]}
          n: {topics: [t], topics_allowed: ["o p"]}
        """,
    )
    paths = [re.split(r"[: ]", problem)[0] for problem in found]
    assert paths == [
        "more",
        "streams.a.topics",
        "streams.b",
        "streams.c",
        "streams.e.topic",
        "streams.f.topics",
        "streams.g.stream",
        "streams.i",
        "streams.j",
        "streams.n",
    ]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("a: {stream_aliases: [b]}\nb:", ["streams.a.stream_aliases: b already names b"]),
        (
            "a: {stream_aliases: [c]}\nb: {stream_aliases: [c]}",
            ["streams.b.stream_aliases: c already names a"],
        ),
        ("a: {stream_aliases: [a]}", ["streams.a.stream_aliases: a already names a"]),
        ("[{stream: a}, {stream: a}]", ["streams.a: declared twice"]),
        ("[{topics: [t]}]", ["streams[0]: "]),
        ("streams: {0: {topics: [t]}}", ["streams.0: an entry whose key is a number"]),
        ("streams: 5", ["streams: "]),
        ("5", ["streams: "]),
        ("", ["streams: "]),
        ("{}", ["streams: declares no stream"]),
        ("/x/: {topics: [t]}", ["streams: declares no stream"]),
        ("streams: {a: }\ndefaults: []", []),
        ("streams: {a: }\ndefaults: [1]", ["defaults: "]),
    ],
)
def test_contradictions_of_streams_are_reported(path: Path, text: str, begins: list[str]) -> None:
    if not begins:
        load(path, text)
        return
    found = problems(path, text)
    assert len(found) == len(begins)
    assert all(one.startswith(begin) for one, begin in zip(found, begins, strict=True))


@pytest.mark.parametrize("name", ["a" * 249, "A-b_c.d0"])
def test_stream_names_may_be_any_topic_name(path: Path, name: str) -> None:
    assert load(path, f"{name}:").names == [name]


@pytest.mark.parametrize("name", ["a" * 250, "a,b", "a/b", "ä", "a\n"])
def test_stream_names_that_no_topic_may_have_are_refused(path: Path, name: str) -> None:
    assert problems(path, f"{name!r}: {{topics: [t]}}".replace("'", '"'))


def test_invalid_yaml_is_reported_with_its_line(path: Path) -> None:
    path.write_text("a: [\n")
    with pytest.raises(ConfigError) as refused:
        load_catalogue(path)
    assert re.match(rf"{re.escape(str(path))}:2:1: not YAML", refused.value.problems[0])
    with pytest.raises(ConfigError):
        load_catalogue(path.with_name("missing"))


def test_redactions_apply_to_topics_that_can_only_be_resumed(path: Path) -> None:
    catalogue = load(
        path,
        "edits:\n"
        "  topics: [eqiad.edits]\n"
        "  topics_allowed: [codfw.edits]\n"
        "  redact: [{domain: example.org, titles: [Secret], remove: [title]}]\n",
    )
    assert catalogue.redactions.keys() == {"eqiad.edits", "codfw.edits"}
