"""How thorough a run is. `EVENTSTREAMS_TEST_LONG=1` runs the long form of the tests that have one.

The short form checks the same properties with fewer repetitions, so that the whole suite takes
minutes.
"""

from __future__ import annotations

import os

LONG = bool(os.environ.get("EVENTSTREAMS_TEST_LONG"))
