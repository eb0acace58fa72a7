"""The demo's flow: submit a backfill to Dagster, and watch it until the last token is pulled."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mm_pipelines.config import Config
from mm_pipelines.lists.configured import customer_source
from mm_pipelines.local.dagster_ui import Backfill, DagsterUi
from mm_pipelines.local.errors import LocalError
from mm_pipelines.report import overview
from mm_pipelines.warehouse.database import Database

JOB = "daily_upload"
SENSOR = "upload_status_sensor"

_POLL_SECONDS = 1.0


class DemoError(LocalError):
    """The demo did not finish; the message says what is missing."""


class DemoFailedError(DemoError):
    """Runs failed, or Meta's sandbox reported a batch as failed."""


class DemoTimeoutError(DemoError):
    """The demo took longer than allowed."""


@dataclass
class Counts:
    """The result of each stage. Each figure counts rows unless its description says otherwise.

    Attributes:
        partitions: Lists, one for each audience and day.
        rows_read: Rows in the lists.
        rows_rejected: Rows without an identifier that can match.
        rejected: Rows by reason of rejection; a row can have several reasons.
        rows_merged: Rows of people who are in the same list already.
        people_hashed: People in the hashed payloads, counted once per list.
        audiences: Custom Audiences.
        rows_uploaded: Rows that Meta acknowledged: people new to their audience, and members that
            fill up small uploads.
        rows_processed: Those of them in batches that Meta has reported.
        matched_lower: Meta's lower bound of people matched, over all audiences.
        matched_upper: Meta's upper bound.
        tokens_pulled: Live tokens of all Pages.
        duplicates_removed: Those of them that belong to a recipient with another token.
        tokens_sendable: Tokens that may be messaged now.
    """

    partitions: int = 0
    rows_read: int = 0
    rows_rejected: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    rows_merged: int = 0
    people_hashed: int = 0
    audiences: int = 0
    rows_uploaded: int = 0
    rows_processed: int = 0
    matched_lower: int = 0
    matched_upper: int = 0
    tokens_pulled: int = 0
    duplicates_removed: int = 0
    tokens_sendable: int = 0


@dataclass(frozen=True)
class Progress:
    """The state of the flow.

    Attributes:
        counts: The figures so far.
        runs: How many of Dagster's runs are queued or in progress.
        missing: What is not done yet; empty when the flow has finished.
    """

    counts: Counts
    runs: int
    missing: Sequence[str]

    @property
    def finished(self) -> bool:
        """Whether every stage is complete."""
        return not self.missing


def partitions_with_lists(config: Config) -> list[str]:
    """The keys of the partitions that have a list, from the first day to the first without any."""
    found: list[str] = []
    day = config.start_date
    while True:
        keys = [
            f"{key}|{day}"
            for key, audience in config.audiences.items()
            if customer_source(config, key, day).exists()
        ]
        if not keys:
            return found
        found += keys
        day += timedelta(days=1)


class Flow:
    """The backfill of the sample lists in a running stack.

    Args:
        config: mm.yaml of the samples.
        partitions: The keys of the partitions to run.
        database: The stack's database.
        ui: Dagster's webserver.
    """

    def __init__(
        self, config: Config, partitions: Sequence[str], database: Database, ui: DagsterUi
    ) -> None:
        self._config = config
        self._partitions = partitions
        self._database = database
        self._ui = ui
        self._submitted_at = 0.0
        self._backfill_id = ""
        self._hashed: list[tuple[str, str, int | None]] = []
        self._read: Counter[str] = Counter()

    def submit(self) -> str:
        """Switch the sensor on, submit the backfill and return its id."""
        self._submitted_at = time.time()
        self._ui.start_sensor(self._config.dagster_name(SENSOR))
        self._backfill_id = self._ui.launch_backfill(
            self._config.dagster_name(JOB), self._partitions
        )
        return self._backfill_id

    def watch(self, seconds: float) -> Iterator[Progress]:
        """Yield the flow's progress once a second, until it has finished.

        Raises:
            DemoFailedError: A run failed, or the sandbox reported a failed batch.
            DemoTimeoutError: It took longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            progress = self._observe()
            yield progress
            if progress.finished:
                return
            if time.monotonic() > deadline:
                raise DemoTimeoutError(
                    f"not finished after {seconds:.0f} s; still missing:\n  "
                    + "\n  ".join(progress.missing)
                )
            time.sleep(_POLL_SECONDS)

    def _observe(self) -> Progress:
        backfill = self._ui.backfill(self._backfill_id)
        if backfill.error is not None:
            raise DemoFailedError(f"the backfill failed: {backfill.error}")
        failed = self._ui.failed_runs(self._submitted_at)
        if failed:
            reasons = "\n".join(
                f"  {run.partition}: {self._ui.why_failed(run.run_id)}" for run in failed
            )
            raise DemoFailedError(f"{len(failed)} runs failed:\n{reasons}")
        runs = len(self._ui.unfinished_runs())
        with self._database.transaction() as connection:
            partitions = overview.partitions(connection)
            pages = overview.pages(connection)
            rejections = overview.rejections(connection)
        rows = [row for row in partitions if f"{row['audience']}|{row['day']}" in self._partitions]
        counts = self._counts(rows, pages)
        counts.rejected = {
            row["reason"]: row["rows"] for row in rejections if row["stage"] == "hashed_payload"
        }
        broken = [row for row in rows if row["status"] == "failed"]
        if broken:
            days = ", ".join(f"{row['audience']}|{row['day']}" for row in broken)
            raise DemoFailedError(f"Meta's sandbox reported failed batches of {days}")
        return Progress(counts, runs, list(self._find_missing(backfill, runs, rows, pages)))

    def _counts(
        self, partitions: Sequence[Mapping[str, Any]], pages: Sequence[Mapping[str, Any]]
    ) -> Counts:
        hashed = [(row["audience"], row["day"], row["people"]) for row in partitions]
        if hashed != self._hashed:
            # Only Dagster knows the rows read; ask again only after a change.
            materialized = self._ui.materialized(
                self._config.asset_path("hashed_payload"), self._partitions
            )
            self._read = Counter()
            for numbers in materialized.values():
                self._read.update(numbers)
            # Dagster receives the metadata a moment after our table has the row.
            self._hashed = hashed if len(materialized) == len(hashed) else []
        newest: dict[str, Mapping[str, Any]] = {}
        for row in partitions:
            before = newest.get(row["audience"])
            if row["last_event_at"] is not None and (
                before is None or before["last_event_at"] <= row["last_event_at"]
            ):
                newest[row["audience"]] = row
        return Counts(
            partitions=len(partitions),
            rows_read=self._read["rows_read"],
            rows_rejected=self._read["rows_rejected"],
            rows_merged=self._read["rows_merged"],
            people_hashed=sum(row["people"] or 0 for row in partitions),
            audiences=len({row["audience"] for row in partitions if row["uploaded"]}),
            rows_uploaded=sum(row["uploaded"] for row in partitions),
            rows_processed=sum(row["processed"] for row in partitions),
            matched_lower=sum(row["lower_bound"] or 0 for row in newest.values()),
            matched_upper=sum(row["upper_bound"] or 0 for row in newest.values()),
            tokens_pulled=sum(page["tokens"] for page in pages),
            duplicates_removed=sum(page["duplicates"] for page in pages),
            tokens_sendable=sum(page["sendable"] for page in pages),
        )

    def _find_missing(
        self,
        backfill: Backfill,
        runs: int,
        partitions: Sequence[Mapping[str, Any]],
        pages: Sequence[Mapping[str, Any]],
    ) -> Iterator[str]:
        if backfill.status != "COMPLETED_SUCCESS":
            yield f"the backfill, whose partitions are {dict(backfill.partitions)}"
        if runs:
            yield f"{runs} runs that are queued or in progress"
        complete = {
            f"{row['audience']}|{row['day']}" for row in partitions if row["status"] == "complete"
        }
        for partition in self._partitions:
            if partition not in complete:
                yield f"the webhooks about {partition}, or their match_status"
        began = {page["page_id"]: page["pull_began_at"] for page in pages}
        for key, page in self._config.pages.items():
            reported = [
                row["last_event_at"]
                for row in partitions
                if row["last_event_at"] and self._config.audiences[row["audience"]].page == key
            ]
            # A pull includes the newest matches only if it began after Meta reported them.
            if page.page_id not in began or any(began[page.page_id] < at for at in reported):
                yield f"the tokens of Page {key}"
