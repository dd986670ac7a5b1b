"""Stream configuration: names before patterns, settings merged over defaults, and constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.config.catalogue import load_catalogue
from eventstreams.errors import ConfigError
from eventstreams.model import stream_config
from eventstreams.model.stream_config import (
    StreamConfigs,
    matches,
    parse_constraints,
    topics_of,
)


def configs(**entries: Any) -> StreamConfigs:
    return StreamConfigs(entries)


def loaded(folder: Path, document: dict[str, Any]) -> StreamConfigs:
    path = folder / "streams.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_catalogue(path).configs


JOBS = r"/^mediawiki\.job\..+/"
SAMPLE = {
    "page.create": {"schema_title": "page/create", "topic_prefixes": ["eqiad.", "codfw."]},
    JOBS: {"schema_title": "job", "topic_prefixes": ["eqiad.", "codfw."]},
    "plain": {"schema_title": "error", "topics": ["other.topic"]},
}


def test_one_several_or_all_streams_are_found_by_name() -> None:
    found = StreamConfigs(SAMPLE)
    assert list(found.select(["plain"], {})) == ["plain"]
    assert list(found.select(["plain", "page.create"], {})) == ["plain", "page.create"]
    assert list(found.select(None, {})) == list(SAMPLE)
    assert found.select(["nowhere"], {}) == {}


def test_several_names_may_come_from_one_pattern() -> None:
    found = StreamConfigs(SAMPLE).select(["mediawiki.job.a", "mediawiki.job.b", "mediawiki.x"], {})
    assert list(found) == ["mediawiki.job.a", "mediawiki.job.b"]
    for name, settings in found.items():
        assert settings["stream"] == name
        assert settings["topics"] == [f"eqiad.{name}", f"codfw.{name}"]
        assert settings["schema_title"] == "job"


def test_an_exact_name_wins_over_a_pattern_and_the_first_pattern_over_the_next() -> None:
    found = StreamConfigs(
        {
            "/^a/": {"schema_title": "first"},
            "/^ab/": {"schema_title": "second"},
            "abc": {"schema_title": "exact"},
        }
    )
    titles = {
        name: config.schema_title for name in ("abc", "ab", "a") if (config := found.get(name))
    }
    assert titles == {"abc": "exact", "ab": "first", "a": "first"}


def test_a_pattern_is_listed_with_patterns_of_topics() -> None:
    found = StreamConfigs(SAMPLE)
    assert found.get(JOBS) is None
    assert found.select([JOBS], {}) == {}
    assert found.select(None, {})[JOBS]["topics"] == [r"/^(eqiad\.|codfw\.)mediawiki\.job\..+/"]


@pytest.mark.parametrize(
    ("name", "settings", "topics"),
    [
        ("a", {}, ["a"]),
        ("a", {"topic_prefixes": None}, ["a"]),
        ("a", {"topic_prefixes": ["x.", "y."]}, ["x.a", "y.a"]),
        ("a", {"topic_prefixes": ["x."], "topics": ["b", "c"]}, ["b", "c"]),
        ("eventlogging_A", {"topic_prefixes": ["x."]}, ["eventlogging_A"]),
    ],
)
def test_topics_are_listed_or_made_of_prefixes(
    name: str, settings: dict[str, Any], topics: list[str]
) -> None:
    assert list(topics_of(name, settings)) == topics
    assert StreamConfigs({name: settings}).select([name], {})[name]["topics"] == topics


def test_settings_are_merged_deeply_over_the_defaults(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        {
            "defaults": {
                "topic_prefixes": ["eqiad."],
                "canary_events_enabled": True,
                "producers": {
                    "eventgate": {"enrich_fields_from_http_headers": {"ua": "user-agent"}}
                },
                "consumers": {"hadoop": {"job_name": "hourly", "enabled": True}},
            },
            "streams": {
                "a": {
                    "schema_title": "test/event",
                    "topic_prefixes": None,
                    "producers": {"eventgate": {"enrich_fields_from_http_headers": {"ua": False}}},
                    "consumers": {"hadoop": {"enabled": False}},
                },
                "b": {"schema_title": "test/event"},
            },
        },
    )
    a, b = found.get("a"), found.get("b")
    assert a is not None
    assert b is not None
    assert a.topics == ("a",)
    assert b.topics == ("eqiad.b",)
    assert (a.enrich, b.enrich) == ({"ua": None}, {"ua": "user-agent"})
    assert a.settings["consumers"] == {"hadoop": {"job_name": "hourly", "enabled": False}}
    assert [config.name for config in found.canaries()] == ["a", "b"]


def test_invalid_regular_expressions_are_refused_with_their_place() -> None:
    with pytest.raises(ConfigError, match=r"streams\./\^\(/: not a regular expression"):
        StreamConfigs({"/^(/": {}})


def test_the_cache_of_names_is_bounded() -> None:
    found = StreamConfigs(SAMPLE)
    most = stream_config._REMEMBERED_MAX
    for n in range(most * 2 + 5):
        assert found.get(f"mediawiki.job.{n}") is not None
        assert found.get(f"unknown.{n}") is None
        assert len(found._remembered) <= most
    for absurd in ("mediawiki.job.a/b", "mediawiki.job.\n", "mediawiki.job." + "x" * 300, ""):
        assert found.get(absurd) is None


def test_metrics_are_labelled_by_pattern_instead_of_name() -> None:
    config = StreamConfigs(SAMPLE).get("mediawiki.job.a")
    assert config is not None
    assert config.label == JOBS


# Constraints


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a=b", {"a": "b"}),
        ("a=b|c=d", {"a": "b", "c": "d"}),
        ("a=", {"a": ""}),
        ("a[b]=c", {"a": {"b": "c"}}),
        ("a[b][c]=d|a[b][e]=f|a[g]=h", {"a": {"b": {"c": "d", "e": "f"}, "g": "h"}}),
        (
            "destination_event_service=eventgate-main",
            {"destination_event_service": "eventgate-main"},
        ),
    ],
)
def test_constraints_are_parsed_into_nested_names_and_values(
    text: str, parsed: dict[str, Any]
) -> None:
    assert parse_constraints(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=b",
        "a=b|",
        "a=b=c|d",
        "a[=b",
        "a[]=b",
        "a]b[=c",
        "a=b|a[c]=d",
        "a" + "[b]" * 10 + "=c",
    ],
)
def test_other_constraints_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not of the form|is deeper than|contradicts"):
        parse_constraints(text)


@pytest.mark.parametrize(
    ("settings", "constraint", "wanted"),
    [
        (True, "true", False),  # as upstream: PHP's text of true is "1"
        (True, "1", True),
        (True, True, True),
        (False, "", True),
        (False, "false", False),
        (None, "", True),
        (7, "7", True),
        ("7", 7, True),
        ("a", "b", False),
        (["a", "b"], ["b"], True),
        (["a", "b"], ["b", "a"], True),
        (["a"], ["a", "b"], False),
        (["a"], "a", False),
        ("a", ["a"], False),
        ({"b": "c", "d": "e"}, {"b": "c"}, True),
        ({"b": "c"}, {"b": "x"}, False),
        ({"b": "c"}, {"x": "c"}, False),
        ({"b": {"c": True}}, {"b": {"c": "1"}}, True),
        ({"b": "c"}, "c", False),
        ("c", {"b": "c"}, False),
    ],
)
def test_a_constraint_ignores_other_parts_of_the_settings(
    settings: Any, constraint: Any, wanted: bool
) -> None:
    assert matches({"a": settings, "z": 1}, {"a": constraint}) is wanted


def test_constraints_select_from_all_or_from_named_streams() -> None:
    found = StreamConfigs({**SAMPLE, "on": {"canary_events_enabled": True}})
    assert list(found.select(None, {"schema_title": "job"})) == [JOBS]
    assert list(found.select(["mediawiki.job.a", "plain"], {"schema_title": "job"})) == [
        "mediawiki.job.a"
    ]
    assert list(found.select(None, {"canary_events_enabled": "1"})) == ["on"]
    assert list(found.select(None, {"stream": "plain"})) == ["plain"]


_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "1", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), _values, max_size=3), _values)
def test_settings_match_any_part_of_themselves(settings: dict[str, Any], other: Any) -> None:
    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(inner) for key, inner in list(value.items())[:2]}
        return value[1:] if isinstance(value, list) else value

    assert matches(settings, settings)
    assert matches(settings, cut(settings))
    assert isinstance(matches(settings, other), bool)
    assert not matches(settings, {**settings, "d": other})
