"""Selects a stable share of events by the hash of a text that a template renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mmh3

from eventstreams.propagation.template import Text, text_of

RATE_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Sampler:
    """Selects events whose 32-bit MurmurHash3 is within the rate, as change-propagation does."""

    rate: float
    """The share, from RATE_MIN to 1."""
    template: Text

    def accepts(self, context: Mapping[str, Any]) -> bool:
        """Return whether the event is selected. Raises TemplateError."""
        return is_sampled(text_of(self.template, context), self.rate)


def is_sampled(text: str, rate: float) -> bool:
    """Return whether a text is within the rate."""
    return mmh3.hash(text.encode(), 0, signed=False) <= round(0xFFFFFFFF * rate)
