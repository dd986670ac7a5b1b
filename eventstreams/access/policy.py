"""Defines the policy: limits, producer keys and the operators' key, which a reload can change."""

from __future__ import annotations

from typing import NamedTuple

from eventstreams.access.producer_keys import Producers
from eventstreams.config.settings import LimitSettings


class Policy(NamedTuple):
    limits: LimitSettings = LimitSettings()
    producers: Producers | None = None
    """If None, everyone may post to every stream."""
    admin_key: bytes | None = None
    """If None, the operators' resources are disabled."""
