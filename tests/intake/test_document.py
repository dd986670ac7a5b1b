"""Bodies are split into events; unreadable ones are refused with the place of the error."""

from __future__ import annotations

import pytest

from eventstreams.errors import BadBody
from eventstreams.intake import document
from eventstreams.model.steps import finished


@pytest.mark.parametrize("before", range(9))
def test_invalid_utf_8_is_reported_with_its_place_in_the_body(before: int) -> None:
    """Bodies are examined in slices; their boundaries make no difference."""
    body = b'{"%b\xc3(": 1}' % (b"a" * (document._SLICE_BYTES - before))
    place = body.index(b"\xc3")
    with pytest.raises(BadBody, match=rf"not UTF-8: byte {place} of the body"):
        finished(document.split(body, events_max=9, event_bytes_max=10**6, lenient=False))
