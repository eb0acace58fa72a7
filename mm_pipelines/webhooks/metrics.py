"""The receiver's metrics in Prometheus' format, and what waits in the database."""

import logging
import time
from collections.abc import Iterable, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from mm_pipelines import health
from mm_pipelines.health import HealthItem
from mm_pipelines.warehouse.database import Database

log = logging.getLogger(__name__)

_LATENCIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)

_HEALTH_SECONDS = 15.0
_HEALTH_ANSWER_SECONDS = 5.0

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

    def include(self, collector: Collector) -> None:
        """Add further metrics to the exposition."""
        self._registry.register(collector)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format; it may read the database."""
        return generate_latest(self._registry)


class HealthMetrics(Collector):
    """``mm.health`` as gauges, read at most every 15 seconds.

    The labels are our own names and the keys and ids of mm.yaml. The role of the receiver needs
    SELECT on the view; without it, or without an answer, ``mm_health_readable`` is 0.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._access = Lock()
        self._read_at = float("-inf")
        self._items: Sequence[HealthItem] | None = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering the collector does not read the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the gauges of everything that waits."""
        items = self._current()
        yield GaugeMetricFamily(
            "mm_health_readable",
            "1 if mm.health could be read.",
            value=0 if items is None else 1,
        )
        waiting = GaugeMetricFamily(
            "mm_health_waiting", "How many wait, by view mm.health.", labels=("item", "subject")
        )
        age = GaugeMetricFamily(
            "mm_health_age_seconds",
            "Seconds since the oldest began to wait, by view mm.health.",
            labels=("item", "subject"),
        )
        for item in items or ():
            waiting.add_metric((item.item, item.subject), item.waiting)
            age.add_metric((item.item, item.subject), item.age_seconds)
        yield waiting
        yield age

    def _current(self) -> Sequence[HealthItem] | None:
        with self._access:
            if time.monotonic() > self._read_at + _HEALTH_SECONDS:
                self._items = self._read()
                self._read_at = time.monotonic()
            return self._items

    def _read(self) -> Sequence[HealthItem] | None:
        try:
            with self._database.transaction(answer_seconds=_HEALTH_ANSWER_SECONDS) as connection:
                return health.read(connection)
        except SQLAlchemyError as error:
            log.warning("mm.health cannot be read", extra={"fault": type(error).__name__})
            return None
