"""Computes the row of an audience's day from the facts that are stored about it.

The same facts give the same row. Each part of a row is as of the day's newest report: the bounds
are those of that report, and they are divided by the people acknowledged until then. Only ``as_of``
and the change to ``overdue`` depend on the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

Status = Literal["waiting", "processing", "complete", "failed", "overdue"]
Source = Literal["webhook", "poll"]


@dataclass(frozen=True)
class MatchStatus:
    """The row of one partition.

    Attributes:
        rows_uploaded: Rows of the partition that Meta acknowledged.
        rows_processed: Rows in batches that were reported as processed.
        rows_failed: Rows in batches that were reported with another status than SUCCESS.
        lower_bound: Lower bound of the people matched in the whole audience.
        upper_bound: Upper bound of them.
        match_rate_lower: ``lower_bound`` divided by ``people_acknowledged``.
        match_rate_upper: ``upper_bound`` divided by ``people_acknowledged``.
        last_event_at: When the partition's newest report reached us.
        as_of: When the row was computed.
        source: Where the bounds come from.
        people_acknowledged: Distinct people in the audience by the time of the bounds.
        seconds_to_processed: The longest time from a batch's acknowledgement to its report.
        deadline_at: When the oldest batch without a report is overdue; None if there is none.
    """

    audience: str
    day: date
    custom_audience_id: str | None
    rows_uploaded: int
    rows_processed: int
    rows_failed: int
    lower_bound: int | None
    upper_bound: int | None
    match_rate_lower: float | None
    match_rate_upper: float | None
    status: Status
    last_event_at: datetime | None
    as_of: datetime
    source: Source | None
    batches_delivered: int
    batches_reported: int
    people_acknowledged: int
    seconds_to_processed: float | None
    deadline_at: datetime | None

    @property
    def rows_unaccounted(self) -> int:
        """Rows that Meta acknowledged and has not reported on."""
        return self.rows_uploaded - self.rows_processed - self.rows_failed


@dataclass(frozen=True)
class Report:
    """Meta's statement that it processed something, by a webhook or an answer to a poll.

    Attributes:
        received_at: When it reached us.
        happened_at: The time of the event at Meta, in whole seconds. Webhooks arrive out of order
            (docs/graph-api.md#webhook-delivery).
        event_id: The webhook's; None for a poll.
        lower_bound: Of the whole audience; None if Meta has none.
        upper_bound: The same.
        succeeded: Whether Meta processed the batch successfully.
    """

    received_at: datetime
    happened_at: datetime
    event_id: int | None
    source: Source
    lower_bound: int | None
    upper_bound: int | None
    succeeded: bool = True


@dataclass(frozen=True)
class Batch:
    """A batch of the partition; one that is sent and not acknowledged has no report."""

    row_count: int
    is_acknowledged: bool
    acknowledged_at: datetime
    report: Report | None


@dataclass(frozen=True)
class Facts:
    """What is stored about a partition at one moment.

    Attributes:
        as_of: The moment.
        overdue_after: How long a batch may go without a report.
        batches: In the order of their acknowledgement.
        emptied_at: When the upload of a day without new people ended; else None.
        is_unfinished: Whether an upload of the day is open, so that batches may be missing.
        earlier: The audience's newest report until ``emptied_at``.
        poll: Meta's newest answer to a poll, which is of interest if a batch is overdue.
    """

    audience: str
    day: date
    custom_audience_id: str | None
    as_of: datetime
    overdue_after: timedelta
    batches: Sequence[Batch]
    emptied_at: datetime | None = None
    is_unfinished: bool = False
    earlier: Report | None = None
    poll: Report | None = None

    @property
    def delivered(self) -> list[Batch]:
        """The batches that Meta acknowledged."""
        return [batch for batch in self.batches if batch.is_acknowledged]

    @property
    def reports(self) -> list[Report]:
        """The reports of the delivered batches."""
        return [batch.report for batch in self.delivered if batch.report is not None]

    @property
    def deadline(self) -> datetime | None:
        """When the oldest batch without a report is overdue; None if there is none."""
        waiting = [batch.acknowledged_at for batch in self.delivered if batch.report is None]
        return min(waiting) + self.overdue_after if waiting else None

    @property
    def is_overdue(self) -> bool:
        """Whether a batch went without a report for too long."""
        return self.deadline is not None and self.as_of >= self.deadline


@dataclass(frozen=True)
class Basis:
    """What the bounds of a row are based on.

    Attributes:
        report: The report that they come from; None while there is none.
        at: The time until which people count.
        event_id: The newest of the partition's webhooks. Its batch counts, although its
            acknowledgement may follow.
    """

    report: Report | None
    at: datetime
    event_id: int | None


def newest_report(batches: Sequence[Batch]) -> Report | None:
    """The report whose bounds count: the latest in Meta's time, then of the latest batch.

    A webhook does not name its batch, so the reports of batches with the same number of rows may be
    assigned in reverse. Of these, the one with the largest bounds counts: an upload only adds
    people.

    Args:
        batches: In the order of their acknowledgement.
    """
    reported = [(batch.row_count, batch.report) for batch in batches if batch.report is not None]
    if not reported:
        return None
    latest = max(report.happened_at for _, report in reported)
    tied = [(rows, report) for rows, report in reported if report.happened_at == latest]
    rows_of_last, _ = tied[-1]
    equal = [report for rows, report in tied if rows == rows_of_last]
    return max(equal, key=lambda report: (report.upper_bound or -1, report.lower_bound or -1))


def basis_of(facts: Facts) -> Basis:
    """Choose the report of the bounds.

    A day without new people has the bounds known by then. While reports are overdue, a newer poll
    is used.
    """
    event_ids = [report.event_id for report in facts.reports if report.event_id is not None]
    event_id = max(event_ids, default=None)
    heard_at = max((report.received_at for report in facts.reports), default=None)
    if facts.emptied_at is not None:
        return Basis(facts.earlier, facts.emptied_at, event_id)
    poll = facts.poll if facts.is_overdue else None
    if poll is not None and (heard_at is None or poll.received_at > heard_at):
        return Basis(poll, poll.received_at, event_id)
    return Basis(newest_report(facts.delivered), heard_at or facts.as_of, event_id)


def match_status_of(facts: Facts, basis: Basis, people: int) -> MatchStatus:
    """The partition's row.

    Args:
        facts: What is stored.
        basis: From `basis_of`.
        people: Distinct people acknowledged in the audience by ``basis``.
    """
    delivered, report = facts.delivered, basis.report
    lower = report.lower_bound if report else None
    upper = report.upper_bound if report else None
    reported = [(batch, batch.report) for batch in delivered if batch.report is not None]
    return MatchStatus(
        audience=facts.audience,
        day=facts.day,
        custom_audience_id=facts.custom_audience_id,
        rows_uploaded=sum(batch.row_count for batch in delivered),
        rows_processed=sum(batch.row_count for batch, told in reported if told.succeeded),
        rows_failed=sum(batch.row_count for batch, told in reported if not told.succeeded),
        lower_bound=lower,
        upper_bound=upper,
        match_rate_lower=_rate(lower, people),
        match_rate_upper=_rate(upper, people),
        status=_status(facts),
        last_event_at=max((told.received_at for _, told in reported), default=None),
        as_of=facts.as_of,
        source=report.source if report else None,
        batches_delivered=len(delivered),
        batches_reported=len(reported),
        people_acknowledged=people,
        seconds_to_processed=max(
            (_seconds_to_report(batch, told) for batch, told in reported), default=None
        ),
        deadline_at=facts.deadline,
    )


def _status(facts: Facts) -> Status:
    if any(not report.succeeded for report in facts.reports):
        return "failed"
    if facts.is_overdue:
        return "overdue"
    all_reported = bool(facts.batches) and len(facts.reports) == len(facts.batches)
    if facts.emptied_at is not None or (all_reported and not facts.is_unfinished):
        return "complete"
    return "processing" if facts.reports else "waiting"


def _rate(bound: int | None, people: int) -> float | None:
    return bound / people if bound is not None and people > 0 else None


def _seconds_to_report(batch: Batch, report: Report) -> float:
    # A webhook may arrive before the answer to its own batch.
    return max((report.received_at - batch.acknowledged_at).total_seconds(), 0.0)
