"""How many events a stream has at least, if all is well, as its declaration says."""

from __future__ import annotations

from typing import Annotated

import msgspec


class MinimumRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """So many events in any `per_s` seconds; fewer mean that something upstream has stopped."""

    events: Annotated[int, msgspec.Meta(ge=1)]
    per_s: Annotated[float, msgspec.Meta(ge=1)]
