"""Producer keys determine who may post to which streams."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from eventstreams.access.producer_keys import load_producers
from eventstreams.errors import ConfigError, InvalidToken

KEY = "a-key-of-a-producer"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


def written(folder: Path, text: str) -> Path:
    file = folder / "producers.yaml"
    file.write_text(text)
    return file


def test_a_producer_key_allows_only_its_streams(tmp_path: Path) -> None:
    text = f"wiki: {{keys_sha256: [{DIGEST}], streams: ['mediawiki.*', change]}}"
    producers = load_producers(written(tmp_path, text))
    producer = producers.of(KEY)
    assert producer.name == "wiki"
    assert producer.may_post_to("mediawiki.revision-create")
    assert producer.may_post_to("change")
    assert not producer.may_post_to("changes")
    assert not producer.may_post_to("other.mediawiki.x")
    for key in (None, "", "other", KEY + "x", "\ud800"):
        with pytest.raises(InvalidToken) as error:
            producers.of(key)
        assert KEY not in error.value.detail


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected a mapping"),
        ("a: {}", "a: .*keys_sha256"),
        ("a: {keys_sha256: [plain], streams: [s]}", r"a\.keys_sha256\[0\]: .*regex"),
        ("a: {keys_sha256: [], streams: [s], more: 1}", r"a\.more: unknown setting"),
        (
            f"{{a: {{keys_sha256: [{DIGEST}], streams: [s]}}, "
            f"b: {{keys_sha256: [{DIGEST}], streams: [s]}}}}",
            "b: a has the same key",
        ),
    ],
)
def test_mistakes_in_the_key_file_are_reported_with_their_places(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_producers(written(tmp_path, text))
