"""The result of a check: its outcome and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventstreams.errors import EventStreamsError

Outcome = Literal["pass", "differs", "fail", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "differs", "fail", "skipped")
_SHOWN_MAX = 160


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    evidence: str
    """The observation, in one sentence."""


class Skipped(EventStreamsError):
    """A check cannot observe its subject. The message says what is needed."""


class Wrong(EventStreamsError):
    """The gateway does not behave as an observation requires, such as respond with a stream."""


def passed(evidence: str) -> Verdict:
    return Verdict("pass", evidence)


def differs(evidence: str) -> Verdict:
    """Return the verdict on correct behaviour that deliberately differs from EventStreams."""
    return Verdict("differs", evidence)


def failed(evidence: str) -> Verdict:
    return Verdict("fail", evidence)


def judge(problem: str | None, otherwise: Verdict) -> Verdict:
    """Return a failure if there is a problem, else the other verdict."""
    return otherwise if problem is None else failed(problem)


def shown(raw: bytes | str) -> str:
    """Return bytes or text as evidence: quoted, on one line, and shortened."""
    text = repr(raw)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(raw):,} long)"
