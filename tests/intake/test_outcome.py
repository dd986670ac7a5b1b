"""Responses describe rejected events, within limits."""

from __future__ import annotations

import json

from eventstreams.intake.outcome import Elements


def test_long_details_are_shortened_in_large_responses() -> None:
    elements = Elements(plain=False, event_bytes_max=10**6)
    event = b'"%b"' % (b"x" * 900_000)
    for index in range(3):
        reported = json.loads(elements.invalid(index, event, "wrong " * 100, ()).element)
        assert reported["context"]["errorsText"] == "wrong " * 100
    for index in range(20):
        elements.invalid(index, b"{}", "wrong " * 10_000, ())
    reported = json.loads(elements.invalid(20, b"{}", "wrong " * 100, ()).element)
    assert len(reported["context"]["errorsText"]) == 401
