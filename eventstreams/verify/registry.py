"""All checks, in the order in which they run: cheap ones first, those that stop it last."""

from __future__ import annotations

from collections.abc import Sequence

from eventstreams.errors import EventStreamsError
from eventstreams.verify.check import Check
from eventstreams.verify.checks import (
    drain,
    errors,
    framing,
    gaps,
    http,
    ids,
    live,
    resume,
    service,
)

CHECKS: tuple[Check, ...] = (
    *service.CHECKS,
    *http.CHECKS,
    *errors.CHECKS,
    *framing.CHECKS,
    *ids.CHECKS,
    *resume.CHECKS,
    *gaps.CHECKS,
    *live.CHECKS,
    *drain.CHECKS,
)


class UnknownCheck(EventStreamsError):
    """There is no check or group with this name."""


def choose(names: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks with these names or groups, or all without names. Raises UnknownCheck."""
    groups = list(dict.fromkeys(check.group for check in CHECKS))
    known = {*groups, *(check.name for check in CHECKS)}
    for name in names:
        if name not in known:
            raise UnknownCheck(
                f"{name!r} is not a check; the groups are {', '.join(groups)}, and `--list` shows "
                "all checks"
            )
    wanted = set(names) or known
    return tuple(check for check in CHECKS if check.group in wanted or check.name in wanted)
