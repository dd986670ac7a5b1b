"""Defines all metrics. Labels have few values: never an address, a key or free text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from eventstreams import __version__


class RelayMetrics:
    """The metrics of one relay."""

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.connected: Gauge = metrics["connected"]
        self.caught_up: Gauge = metrics["caught_up"]
        self.connections: Counter = metrics["connections"]
        self._metrics = metrics

    def appended(
        self, *, events: int, duplicates: int, canaries: int, gaps: int, newest_ms: int | None
    ) -> None:
        """Record that a batch was appended, and the time of its newest event in ms."""
        counts = {"events": events, "duplicates": duplicates, "canaries": canaries, "gaps": gaps}
        for name, count in counts.items():
            self._metrics[name].inc(count)
        if newest_ms is not None:
            self._metrics["newest_event_seconds"].set(newest_ms / 1000)
            self._metrics["lag_seconds"].set(time.time() - newest_ms / 1000)


class Metrics:
    """All metrics of one gateway. Each instance has its own registry, so that several gateways in
    one process, as in tests, do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        p = "eventstreams_"
        ProcessCollector(registry=r)  # processor time, memory, open files, start
        Info(f"{p}build", "The running version", registry=r).info({"version": __version__})
        self.events_in = Counter(f"{p}events_in", "Records read at the ends of topics", registry=r)
        self.events_out = Counter(f"{p}events_out", "Events written to clients", registry=r)
        self.records_skipped = Counter(
            f"{p}records_skipped", "Records skipped because they contain no event", registry=r
        )
        self.clients = Gauge(f"{p}clients", "Open streams", registry=r)
        self.stream_clients = Gauge(
            f"{p}stream_clients",
            "Open streams, by the stream that they read",
            ["stream"],
            registry=r,
        )
        self.cohorts = Gauge(f"{p}cohorts", "Groups of clients that share bytes", registry=r)
        self.streams_ended = Counter(
            f"{p}streams_ended", "Streams that ended", ["reason"], registry=r
        )
        self.refused = Counter(f"{p}refused", "Requests refused", ["code"], registry=r)
        self.slow = Counter(
            f"{p}slow", "Times a client could not keep up with its cohort", registry=r
        )
        self.gaps = Counter(f"{p}gaps", "Gaps reported to clients", ["cause"], registry=r)
        self.history_reads = Counter(
            f"{p}history_reads", "Blocks of history, by their source", ["from"], registry=r
        )
        self.history_events = Counter(
            f"{p}history_events", "Records read from the log for clients that catch up", registry=r
        )
        self.catching_up = Gauge(f"{p}catching_up", "Streams that read history", registry=r)
        self.catch_up_waiting = Gauge(
            f"{p}catch_up_waiting", "Streams that read history and wait for a slot", registry=r
        )
        self.filter_seconds = Counter(
            f"{p}filter_seconds", "Time spent choosing which events to send", registry=r
        )
        self.filter_evaluations = Counter(
            f"{p}filter_evaluations",
            "Times a filter, fields or a sample was applied to an event, once for a cohort",
            registry=r,
        )
        self._filters = Gauge(
            f"{p}filters",
            "Cohorts that select events: indexed, or examined for every event; and streams that "
            "evaluate a costly filter by themselves",
            ["evaluation"],
            registry=r,
        )
        self.partition_lag = Gauge(
            f"{p}partition_lag",
            "Offsets between the last record read from a partition and its end",
            ["topic", "partition"],
            registry=r,
        )
        self.tail_events = Gauge(
            f"{p}tail_events", "Newest events in memory", ["topic", "partition"], registry=r
        )
        self.stream_silent = Gauge(
            f"{p}stream_silent",
            "1 while a stream has fewer events than its declared minimum rate",
            ["stream"],
            registry=r,
        )
        self.tail_bytes = Gauge(
            f"{p}tail_bytes", "Bytes of the newest events in memory", registry=r
        )
        self.log_reachable = Gauge(f"{p}log_reachable", "1 while the log is reachable", registry=r)
        self.timestamps_limited = Counter(
            f"{p}timestamps_limited",
            "Records stored with the time of appending because theirs was too far in the future",
            registry=r,
        )
        self.quota_reachable = Gauge(
            f"{p}quota_reachable", "1 while the shared limit counters can be reached", registry=r
        )
        self.write_seconds = Histogram(
            f"{p}write_seconds",
            "Time of one round of writes to all cohorts",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
            registry=r,
        )

        self.catalogue_reloads = Counter(
            f"{p}catalogue_reloads", "Reloads of the catalogue", ["outcome"], registry=r
        )
        self.settings_reloads = Counter(
            f"{p}settings_reloads", "Reloads of the settings", ["outcome"], registry=r
        )
        for reloads in (self.catalogue_reloads, self.settings_reloads):
            for outcome in ("taken", "refused"):
                reloads.labels(
                    outcome
                )  # exported as 0 from the start, so that the first increase shows
        self.intake_events = Counter(
            f"{p}intake_events", "Events posted", ["stream", "outcome"], registry=r
        )
        self.intake_requests = Counter(
            f"{p}intake_requests", "Requests that post events", ["status"], registry=r
        )
        self.intake_seconds = Histogram(
            f"{p}intake_seconds",
            "Time from a request's head to its response",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=r,
        )
        self.intake_bytes = Gauge(f"{p}intake_bytes", "Bytes of requests in progress", registry=r)
        self.intake_error_events = Counter(
            f"{p}intake_error_events", "Events about rejected events", ["outcome"], registry=r
        )
        self.canary_events = Counter(
            f"{p}canary_events", "Canary events", ["stream", "outcome"], registry=r
        )

        self.propagation_events = Counter(
            f"{p}propagation_events",
            "Events that rules acted on or dropped, by outcome",
            ["rule", "outcome"],
            registry=r,
        )
        self.propagation_seconds = Histogram(
            f"{p}propagation_seconds",
            "Time of one attempt at the actions of a rule",
            ["rule"],
            buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=r,
        )
        self.propagation_lag = Gauge(
            f"{p}propagation_lag",
            "Offsets in a rule's partitions that it has not read yet",
            ["rule"],
            registry=r,
        )
        self.propagation_running = Gauge(
            f"{p}propagation_running", "Events being acted on", ["rule"], registry=r
        )
        self.propagation_waiting = Gauge(
            f"{p}propagation_waiting",
            "Events in memory that wait for a time, a slot or another event",
            ["rule"],
            registry=r,
        )
        self.propagation_paused = Gauge(
            f"{p}propagation_paused", "1 while an operator has stopped a rule", ["rule"], registry=r
        )
        self.propagation_missing = Gauge(
            f"{p}propagation_missing_topics",
            "Topics that a rule reads and that do not exist",
            ["rule"],
            registry=r,
        )
        self._relay_gauges = {
            name: Gauge(f"{p}relay_{name}", text, ["relay"], registry=r)
            for name, text in (
                ("connected", "1 while the relay reads a stream of its upstream"),
                ("caught_up", "1 while the relay has read all past events of its upstream"),
                ("lag_seconds", "Age of the newest event when it was appended"),
                ("newest_event_seconds", "Unix time of the newest event"),
            )
        }
        self._relay_counters = {
            name: Counter(f"{p}relay_{name}", text, ["relay"], registry=r)
            for name, text in (
                ("connections", "Connections to the upstream"),
                ("events", "Events appended"),
                ("duplicates", "Events that were received again and dropped"),
                ("canaries", "Canary events that were not appended"),
                ("gaps", "Gaps that the upstream reported"),
            )
        }

    def relay(self, name: str) -> RelayMetrics:
        """Return the metrics of one relay."""
        every = self._relay_gauges | self._relay_counters
        return RelayMetrics({each: metric.labels(name) for each, metric in every.items()})

    def relay_figures(self) -> dict[str, dict[str, float]]:
        """Return the values of each relay's metrics, by name of the relay and of the metric."""
        found: dict[str, dict[str, float]] = {}
        for name, metric in (self._relay_gauges | self._relay_counters).items():
            for labels, value in _values(metric):
                found.setdefault(labels["relay"], {})[name] = value
        return found

    def rendered(self, skipped: int, selecting_s: float) -> None:
        """Record the skipped records of a batch, and the time spent on selecting its events."""
        if skipped:
            self.records_skipped.inc(skipped)
        if selecting_s:
            self.filter_seconds.inc(selecting_s)

    def filters_of(self, evaluation: str, count: int) -> None:
        """Set the number of cohorts, or streams, whose filters are evaluated in this way."""
        self._filters.labels(evaluation).set(count)

    def scanned(self, skipped: int, evaluations: int, selecting_s: float) -> None:
        """Record the work of examining events for cohorts."""
        self.rendered(skipped, selecting_s)
        if evaluations:
            self.filter_evaluations.inc(evaluations)

    def exposition(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def serve(self, host: str, port: int) -> None:
        """Serve metrics on a separate port, in a daemon thread. Raises OSError."""
        start_http_server(port, addr=host, registry=self.registry)


def total(metric: Gauge | Counter) -> float:
    """Return the sum of a metric's values over all its labels."""
    return sum(value for _, value in _values(metric))


def _values(metric: Gauge | Counter) -> Iterator[tuple[dict[str, str], float]]:
    for family in metric.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield sample.labels, sample.value
