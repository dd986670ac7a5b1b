"""How much clients may take up, who may post, who is an operator: what can change while it runs."""

from __future__ import annotations

from typing import NamedTuple

from eventstreams.access.producers import Producers
from eventstreams.settings import LimitSettings


class Policy(NamedTuple):
    limits: LimitSettings = LimitSettings()
    producers: Producers | None = None
    """None: everyone may post to all streams."""
    admin_key: bytes | None = None
    """None: nobody is an operator."""
