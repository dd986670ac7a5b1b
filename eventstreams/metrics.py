"""Every metric there is, in one class. Labels are bounded: never an address, a key or free text."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    start_http_server,
)

from eventstreams import __version__


class Metrics:
    """One registry per instance, so that tests and several gateways in a process don't meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        p = "eventstreams_"
        ProcessCollector(registry=r)  # processor time, memory, open files, start
        Info(f"{p}build", "What runs here", registry=r).info({"version": __version__})
        self.events_in = Counter(f"{p}events_in", "Records read at the ends of topics", registry=r)
        self.events_out = Counter(f"{p}events_out", "Events written to clients", registry=r)
        self.records_skipped = Counter(
            f"{p}records_skipped", "Records passed over because they hold no event", registry=r
        )
        self.clients = Gauge(f"{p}clients", "Open streams", registry=r)
        self.stream_clients = Gauge(
            f"{p}stream_clients", "Open streams, by what they read", ["stream"], registry=r
        )
        self.cohorts = Gauge(f"{p}cohorts", "Groups of clients that share bytes", registry=r)
        self.streams_ended = Counter(
            f"{p}streams_ended", "Streams that ended", ["reason"], registry=r
        )
        self.refused = Counter(f"{p}refused", "Requests refused", ["code"], registry=r)
        self.slow = Counter(
            f"{p}slow", "Times a client could not keep up with its cohort", registry=r
        )
        self.gaps = Counter(f"{p}gaps", "Gaps told to clients", ["cause"], registry=r)
        self.history_reads = Counter(
            f"{p}history_reads", "Blocks of history, by where they came from", ["from"], registry=r
        )
        self.history_events = Counter(
            f"{p}history_events", "Records read from the log for catching up", registry=r
        )
        self.catching_up = Gauge(f"{p}catching_up", "Streams that read history", registry=r)
        self.catch_up_waiting = Gauge(
            f"{p}catch_up_waiting", "Of these, streams that wait for their turn", registry=r
        )
        self.filter_seconds = Counter(
            f"{p}filter_seconds", "Time spent on which events to send", registry=r
        )
        self.partition_lag = Gauge(
            f"{p}partition_lag",
            "Offsets between what was read of a partition and its end",
            ["topic", "partition"],
            registry=r,
        )
        self.tail_events = Gauge(
            f"{p}tail_events", "Newest events held", ["topic", "partition"], registry=r
        )
        self.stream_silent = Gauge(
            f"{p}stream_silent",
            "1 while a stream has fewer events than it is declared to have at least",
            ["stream"],
            registry=r,
        )
        self.tail_bytes = Gauge(f"{p}tail_bytes", "Bytes of newest events held", registry=r)
        self.log_reachable = Gauge(f"{p}log_reachable", "1 while the log answers", registry=r)
        self.timestamps_limited = Counter(
            f"{p}timestamps_limited",
            "Records stored with the time of appending because theirs was too far in the future",
            registry=r,
        )
        self.ledger_reachable = Gauge(
            f"{p}ledger_reachable", "1 while those who share limits can be asked", registry=r
        )
        self.write_seconds = Histogram(
            f"{p}write_seconds",
            "Time of one round of writing to all cohorts",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
            registry=r,
        )

        self.catalogue_reloads = Counter(
            f"{p}catalogue_reloads", "Times the catalogue was read again", ["outcome"], registry=r
        )
        self.settings_reloads = Counter(
            f"{p}settings_reloads", "Times the settings were read again", ["outcome"], registry=r
        )
        for reloads in (self.catalogue_reloads, self.settings_reloads):
            for outcome in ("taken", "refused"):
                reloads.labels(outcome)  # who watches it sees the first one happen
        self.intake_events = Counter(
            f"{p}intake_events", "Events posted", ["stream", "outcome"], registry=r
        )
        self.intake_requests = Counter(
            f"{p}intake_requests", "Requests that post events", ["status"], registry=r
        )
        self.intake_seconds = Histogram(
            f"{p}intake_seconds",
            "Time from a request's head to its answer",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=r,
        )
        self.intake_bytes = Gauge(f"{p}intake_bytes", "Bytes of requests being taken", registry=r)
        self.intake_error_events = Counter(
            f"{p}intake_error_events", "Events about refused ones", ["outcome"], registry=r
        )
        self.canary_events = Counter(
            f"{p}canary_events", "Canary events", ["stream", "outcome"], registry=r
        )

    def rendered(self, skipped: int, selecting_s: float) -> None:
        """Records were made into frames."""
        self.records_skipped.inc(skipped)
        self.filter_seconds.inc(selecting_s)

    def serve(self, host: str, port: int) -> None:
        """Answers scrapes on a port of their own, in a thread that ends with the process."""
        start_http_server(port, addr=host, registry=self.registry)
