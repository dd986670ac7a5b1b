"""A circuit breaker for each host: after repeated failures, it gets no requests for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

HOSTS_MAX = 4096
"""How many failing hosts are remembered; the one that failed longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """The conditions under which a circuit opens, and for how long."""

    failures: int = 20
    """Consecutive failures that open a circuit; 0 disables circuit breakers."""
    pause_ms: int = 30_000


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened_ms: int | None = None
    probing: bool = False


class CircuitBreakers:
    """The circuits of all hosts. Hosts without recent failures take no memory."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._circuits: OrderedDict[str, _Circuit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._circuits)

    def admit(self, host: str, now_ms: int) -> bool:
        """Return whether a request may go to this host now, by a clock that is never set.

        After the pause, one request at a time is admitted until one succeeds.
        """
        circuit = self._circuits.get(host)
        if circuit is None or circuit.opened_ms is None:
            return True
        if now_ms - circuit.opened_ms < self._policy.pause_ms or circuit.probing:
            return False
        circuit.probing = True
        return True

    def succeeded(self, host: str) -> None:
        """Close the circuit of a host that answered."""
        self._circuits.pop(host, None)

    def failed(self, host: str, now_ms: int) -> None:
        """Count a failure: no answer in time, or one that reports a broken host."""
        if not self._policy.failures:
            return
        circuit = self._circuits.setdefault(host, _Circuit())
        self._circuits.move_to_end(host)
        circuit.failures += 1
        if circuit.probing or (
            circuit.opened_ms is None and circuit.failures >= self._policy.failures
        ):
            circuit.opened_ms = now_ms
        circuit.probing = False
        while len(self._circuits) > HOSTS_MAX:
            self._circuits.popitem(last=False)

    def released(self, host: str) -> None:
        """End a request whose outcome says nothing about the host."""
        circuit = self._circuits.get(host)
        if circuit is not None:
            circuit.probing = False

    def open_hosts(self) -> list[str]:
        """Return the hosts whose circuits are open."""
        return [host for host, each in self._circuits.items() if each.opened_ms is not None]
