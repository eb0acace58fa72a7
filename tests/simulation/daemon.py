"""Dagster's daemon: which work is due, by the queries that the sensors use, and when to retry.

As in `sensors.run_requests`, a run key names the work, when it was last done, and the attempt. A
key whose run succeeded is never launched again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection

from mm_pipelines.consent import (
    audience_cleanup,
    audience_search,
    follow_up_pulls,
    opt_out_requests,
)
from mm_pipelines.consent.messenger_events import CONSENT_FIELDS, MESSAGE_FIELDS
from mm_pipelines.delivery import interrupted_deltas
from mm_pipelines.match_status.due import match_status_due, token_pulls_due
from mm_pipelines.orchestration import deferrals
from mm_pipelines.tokens import sender_file
from mm_pipelines.warehouse.advisory_locks import held_locks
from mm_pipelines.webhooks import page_event
from tests.simulation.company import AUDIENCES, FIRST_DAY, PAGE_IDS
from tests.simulation.process import Ended
from tests.simulation.runs import OVERDUE_AFTER, Work

MOST_ATTEMPTS = 5
"""After so many failed runs in a row, a partition is paused."""

_PULLED_AT_MOST_EVERY = timedelta(minutes=15)
_INTERRUPTED_AFTER = timedelta(minutes=15)
_PRIORITIES = (
    "messaging_optins",
    "unsubscribes",
    "sendable_tokens",
    "match_status",
    "subscription_tokens",
    "optin_requests",
    "audience_upload",
)


@dataclass(frozen=True, order=True)
class Request:
    """Due work, and when it was last done, in unix seconds."""

    work: Work
    done_at: float


@dataclass
class _Tries:
    failures: int = 0
    retry_at: float = 0.0
    has_succeeded: bool = False
    last_error: str = ""


@dataclass
class Daemon:
    """Requests the due work, waits after failures, and pauses work that fails again and again."""

    _tries: dict[Request, _Tries] = field(default_factory=dict)
    _materialized: dict[Work, float] = field(default_factory=dict)
    _lists: dict[Work, float] = field(default_factory=dict)

    def list_changed(self, audience: str, day: date, now: float) -> None:
        """A list was put in place."""
        self._lists[Work("audience_upload", audience, day)] = now

    def due(self, connection: Connection, now: float) -> list[Request]:
        """What may be launched now, the most urgent first."""
        launchable = []
        for request in dict.fromkeys(self._all_due(connection, now)):
            tries = self._tries.get(request, _Tries())
            if not tries.has_succeeded and tries.retry_at <= now:
                launchable.append(request)
        return sorted(launchable, key=lambda each: (_PRIORITIES.index(each.work.asset), each))

    def left_over(self, connection: Connection, now: float) -> list[str]:
        """The due work that nothing requests any more, and why."""
        left = []
        for request in dict.fromkeys(self._all_due(connection, now)):
            tries = self._tries.get(request, _Tries())
            if tries.has_succeeded:
                left.append(f"{request.work} is due again, but its run key was used")
            elif tries.failures >= MOST_ATTEMPTS:
                left.append(f"{request.work} is paused: {tries.last_error}")
        return left

    def next_time(self, connection: Connection, now: float) -> float | None:
        """When a retry or a deferral is due next."""
        times = [tries.retry_at for tries in self._tries.values()]
        times += [each.due_at.timestamp() for each in deferrals.pending(connection)]
        return min((at for at in times if now < at < float("inf")), default=None)

    def ended(self, request: Request, outcome: Ended | None, now: float) -> None:
        """Note how a run ended; None is a run that was killed."""
        tries = self._tries.setdefault(request, _Tries())
        if outcome is not None and (outcome.error is None or outcome.deferred):
            tries.has_succeeded = True
            self._materialized[request.work] = now
            return
        tries.failures += 1
        tries.last_error = (outcome.error or "") if outcome else "killed"
        wait = (outcome.wait or 0.0) if outcome else 0.0
        tries.retry_at = now + max(wait, 30.0 * 2 ** (min(tries.failures, MOST_ATTEMPTS) - 1))
        if tries.failures >= MOST_ATTEMPTS:
            tries.retry_at = float("inf")

    def _all_due(self, connection: Connection, now: float) -> Iterator[Request]:
        yield from self._opt_outs(connection, now)
        yield from self._tokens(connection)
        yield from self._statuses(connection)
        yield from self._deferred(connection, now)
        yield from self._uploads(connection)

    def _opt_outs(self, connection: Connection, now: float) -> Iterator[Request]:
        today = datetime.fromtimestamp(now, UTC).date()
        for fields, asset in (
            (CONSENT_FIELDS, "messaging_optins"),
            (MESSAGE_FIELDS, "optin_requests"),
        ):
            for page in page_event.pages_pending(connection, list(PAGE_IDS), fields):
                yield self._since_materialized(Work(asset, page.page_id))
        waiting = {each.partition_key for each in deferrals.pending(connection)}
        for requests in opt_out_requests.open_by_page(connection):
            work = Work("unsubscribes", requests.page_id, today)
            done_at = max(_seconds(requests.newest_at), self._materialized.get(work, 0.0))
            if work.partition_key not in waiting:
                yield Request(work, done_at)
        for cleanup in audience_cleanup.due(connection):
            work = Work("unsubscribes", AUDIENCES[cleanup.audience].page_id, today)
            if work.partition_key not in waiting:
                yield self._since_materialized(work)
        searched = audience_search.page_to_search_for(connection)
        if searched is not None:
            yield self._since_materialized(Work("unsubscribes", searched, today))

    def _tokens(self, connection: Connection) -> Iterator[Request]:
        pages, at_most_every = list(PAGE_IDS), _PULLED_AT_MOST_EVERY
        for pull in follow_up_pulls.due(connection, pages, at_most_every=at_most_every):
            yield Request(Work("subscription_tokens", pull.page_id), _seconds(pull.finished_at))
        for reported in token_pulls_due(connection, pages, at_most_every=at_most_every):
            work = Work("subscription_tokens", reported.page_id)
            yield Request(work, _seconds(reported.finished_at))
        for file in sender_file.due(connection, pages):
            # A file that only expires is renewed for ever.
            if file.newest_at is not None:
                yield Request(Work("sendable_tokens", file.page_id), _seconds(file.as_of))

    def _statuses(self, connection: Connection) -> Iterator[Request]:
        due = match_status_due(
            connection, list(AUDIENCES), first_day=FIRST_DAY, overdue_after=OVERDUE_AFTER, limit=200
        )
        for status in due.statuses:
            yield Request(Work("match_status", status.audience, status.day), _seconds(status.as_of))

    def _deferred(self, connection: Connection, now: float) -> Iterator[Request]:
        deferred = deferrals.pending(connection)
        locks = {each.waits_for_lock for each in deferred if each.waits_for_lock}
        held = held_locks(connection, locks)
        for each in deferred:
            if each.due_at.timestamp() <= now and each.waits_for_lock not in held:
                key, _, day = each.partition_key.partition("|")
                work = Work(each.asset, key, date.fromisoformat(day) if day else None)
                yield Request(work, _seconds(each.deferred_at))

    def _uploads(self, connection: Connection) -> Iterator[Request]:
        for work, changed_at in self._lists.items():
            if self._materialized.get(work, 0.0) <= changed_at:
                yield Request(work, changed_at)
        for delta in interrupted_deltas.find(connection, idle_for=_INTERRUPTED_AFTER):
            work = Work("audience_upload", delta.audience, delta.day)
            yield Request(work, _seconds(delta.last_active_at))

    def _since_materialized(self, work: Work) -> Request:
        return Request(work, self._materialized.get(work, 0.0))


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at is not None else 0.0
