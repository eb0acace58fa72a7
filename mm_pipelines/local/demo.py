"""The demo's flow: a backfill submitted to Dagster, then watched until its last token is pulled."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mm_pipelines.config import Config
from mm_pipelines.lists.location import list_url, stat_list
from mm_pipelines.local.dagster_ui import Backfill, DagsterUi
from mm_pipelines.report import overview
from mm_pipelines.warehouse.database import Database

JOB = "daily_upload"
SENSOR = "upload_status_sensor"

_LOOK_SECONDS = 1.0


class DemoError(Exception):
    """The demo did not come to its end; the message says where it stands."""


class DemoFailed(DemoError):
    """Runs failed, or Meta's sandbox reported a batch as failed."""


class DemoTooSlow(DemoError):
    """The time allowed is over."""


@dataclass
class Counts:
    """What became of the lists, stage by stage; rows unless said otherwise.

    Attributes:
        partitions: lists, one for each audience and day.
        rows_read: rows in them.
        rows_rejected: without an identifier that can match; `rejected` has the reasons, of which a
            row can have several.
        rows_merged: further rows of people who are in the same list already.
        people_hashed: what is left: one for each person and list.
        audiences: Custom Audiences.
        rows_uploaded: people not in the audience before, acknowledged by Meta.
        rows_processed: of them, those in batches that Meta reported.
        matched_lower: people matched in all audiences, at least.
        matched_upper: at most.
        tokens_pulled: live tokens of all Pages.
        duplicates_removed: of them, further tokens of the same recipient.
        tokens_sendable: those that may be messaged now.
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
    """The flow at one moment.

    Attributes:
        counts: so far.
        runs: how many of Dagster's runs wait or work.
        waits_for: what has yet to be done; nothing when the flow has finished.
    """

    counts: Counts
    runs: int
    waits_for: Sequence[str]

    @property
    def finished(self) -> bool:
        """Whether every stage has done its part."""
        return not self.waits_for


def partitions_with_lists(config: Config) -> list[str]:
    """The keys of the partitions whose list is there, from the first day to a day without any."""
    found: list[str] = []
    day = config.start_date
    while True:
        there = [
            f"{key}|{day}"
            for key, audience in config.audiences.items()
            if stat_list(list_url(audience.source.path, config.directory, audience=key, day=day))
        ]
        if not there:
            return found
        found += there
        day += timedelta(days=1)


class Flow:
    """The sample lists on their way through a running stack.

    Args:
        config: mm.yaml of the samples.
        partitions: the keys of the job's partitions to run.
        database: of the stack.
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
        """Switch the sensor on, submit the backfill, and return its id."""
        self._submitted_at = time.time()
        self._ui.start_sensor(SENSOR)
        self._backfill_id = self._ui.launch_backfill(JOB, self._partitions)
        return self._backfill_id

    def watch(self, seconds: float) -> Iterator[Progress]:
        """The flow's progress once a second, until it has finished.

        Raises:
            DemoFailed: something went wrong.
            DemoTooSlow: it took longer than `seconds`.
        """
        give_up = time.monotonic() + seconds
        while True:
            progress = self._look()
            yield progress
            if progress.finished:
                return
            if time.monotonic() > give_up:
                raise DemoTooSlow(
                    f"not finished after {seconds:.0f} s; still to come:\n  "
                    + "\n  ".join(progress.waits_for)
                )
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> Progress:
        backfill = self._ui.backfill(self._backfill_id)
        if backfill.error is not None:
            raise DemoFailed(f"the backfill failed: {backfill.error}")
        failed = self._ui.failed_runs(self._submitted_at)
        if failed:
            reasons = "\n".join(
                f"  {run.partition}: {self._ui.why_failed(run.run_id)}" for run in failed
            )
            raise DemoFailed(f"{len(failed)} runs failed:\n{reasons}")
        runs = len(self._ui.unfinished_runs())
        with self._database.transaction() as connection:
            partitions = overview.partitions(connection)
            pages = overview.pages(connection)
            rejections = overview.rejections(connection)
        mine = [row for row in partitions if f"{row['audience']}|{row['day']}" in self._partitions]
        counts = self._counts(mine, pages)
        counts.rejected = {
            row["reason"]: row["rows"] for row in rejections if row["stage"] == "hashed_payload"
        }
        broken = [row for row in mine if row["status"] == "failed"]
        if broken:
            days = ", ".join(f"{row['audience']}|{row['day']}" for row in broken)
            raise DemoFailed(f"Meta's sandbox reported failed batches of {days}")
        return Progress(counts, runs, list(self._waits_for(backfill, runs, mine, pages)))

    def _counts(
        self, partitions: Sequence[Mapping[str, Any]], pages: Sequence[Mapping[str, Any]]
    ) -> Counts:
        hashed = [(row["audience"], row["day"], row["people"]) for row in partitions]
        if hashed != self._hashed:
            # The rows read are known to Dagster alone, for whom every answer is work.
            known = self._ui.materialized("hashed_payload", self._partitions)
            self._read = Counter()
            for numbers in known.values():
                self._read.update(numbers)
            # Dagster hears of a file a moment after it is recorded.
            self._hashed = hashed if len(known) == len(hashed) else []
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

    def _waits_for(
        self,
        backfill: Backfill,
        runs: int,
        partitions: Sequence[Mapping[str, Any]],
        pages: Sequence[Mapping[str, Any]],
    ) -> Iterator[str]:
        if backfill.status != "COMPLETED_SUCCESS":
            yield f"the backfill, whose partitions are {dict(backfill.partitions)}"
        if runs:
            yield f"{runs} runs that wait or work"
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
            # Tokens are those of the newest matches only if they were asked for after them.
            if page.page_id not in began or any(began[page.page_id] < at for at in reported):
                yield f"the tokens of Page {key}"
