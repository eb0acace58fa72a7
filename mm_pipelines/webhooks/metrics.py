"""The receiver's metrics in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_LATENCIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ReceiverMetrics:
    """The metrics of one receiver; no label has a value that a sender can choose."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.answers = Counter(
            "mm_webhook_answers_total",
            "POST requests by status of the answer.",
            ["status"],
            registry=self._registry,
        )
        self.answer_seconds = Histogram(
            "mm_webhook_answer_seconds",
            "From the first byte of a POST to its answer.",
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self.events_stored = Counter(
            "mm_webhook_events_stored_total", "Events stored.", registry=self._registry
        )
        self.events_known = Counter(
            "mm_webhook_events_known_total",
            "Redelivered events, which are stored once.",
            registry=self._registry,
        )
        self.events_unreadable = Counter(
            "mm_webhook_events_unreadable_total",
            "Items that could not be read; stored under the field unreadable.",
            registry=self._registry,
        )
        self.commit_posts = Histogram(
            "mm_webhook_commit_posts",
            "POST requests that shared one commit.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self.commit_failures = Counter(
            "mm_webhook_commit_failures_total",
            "Commits that failed.",
            registry=self._registry,
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
