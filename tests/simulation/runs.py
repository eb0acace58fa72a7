"""What each run does: the subjects, called as the assets call them."""

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from mm_pipelines.consent import audience_cleanup, audience_search
from mm_pipelines.consent.audience_cleanup import OptOuts, remove_opted_out_members
from mm_pipelines.consent.identifiers import OptOut
from mm_pipelines.consent.messenger_events import apply_consent_events, apply_messages
from mm_pipelines.consent.opt_outs import OptOutPlan, OptOutSummary, suppress, unsubscribe_at_meta
from mm_pipelines.delivery import custom_audience, membership
from mm_pipelines.delivery.context import DeliveryContext, Sending
from mm_pipelines.delivery.custom_audience import AudienceSpec
from mm_pipelines.delivery.errors import DeliveryError, RowsNotReceivedError
from mm_pipelines.delivery.upload import upload
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import get_custom_audience, list_sessions
from mm_pipelines.graph_api.errors import GraphApiError, ThrottledError, TransientError
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.tokens import iter_token_pages
from mm_pipelines.lists import FileSource, inspect_list
from mm_pipelines.lists import registry as lists
from mm_pipelines.match_status import observations
from mm_pipelines.match_status import partition_status as statuses
from mm_pipelines.match_status.computation import MatchStatus
from mm_pipelines.match_status.observations import SessionObservation, UploadObservation
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.passing_faults import is_passing_fault
from mm_pipelines.payload import build_hashed_payload, quarantine
from mm_pipelines.payload import registry as payloads
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.suppression_list import SuppressionList, match_suppressed
from mm_pipelines.tokens.errors import TokenPullError
from mm_pipelines.tokens.export import FileFormat, publish_sendable
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database, LockLostError, LockTakenError
from tests.simulation.company import (
    APP_ID,
    AUDIENCES,
    BATCH_SIZE,
    MINIMUM_UPLOAD,
    PAGE_IDS,
    SUPPRESSION_KEY,
    SYSTEM_USER_TOKEN,
    list_path,
)
from tests.simulation.process import Ended, Outside

OVERDUE_AFTER = timedelta(hours=24)
LONGEST_WAIT_IN_RUN = 60.0
"""Seconds; a longer wait is deferred (docs/decisions/0010-defer-instead-of-waiting.md)."""

_FIRST_WAIT = 30.0


_LIVE_TOKENS = text("""
select token from mm.subscription_token where page_id = :page_id and gone_at is null
""")


@dataclass(frozen=True, order=True)
class Work:
    """One run: an asset and its partition. Without a day, the partition is an audience or Page."""

    asset: str
    key: str
    day: date | None = None

    @property
    def partition_key(self) -> str:
        """As Dagster names it."""
        return f"{self.key}|{self.day}" if self.day else self.key


def carry_out(work: Work, database_url: str, home: Path, outside: Outside) -> Ended:
    """Do the work of a run; a failure becomes a retry, a deferral or an error, as in an asset."""
    database = Database(database_url)
    run = _Run(database, Storage(str(home / "storage")), home, outside)
    try:
        result = getattr(run, work.asset)(work)
    except Exception as error:  # noqa: BLE001 - judged as Dagster's runs are
        outside.log.append("".join(traceback.format_exception(error)))
        ended = _judge(database, work, error)
    else:
        with database.transaction() as connection:
            deferrals.finish(connection, work.asset, work.partition_key)
        ended = Ended(result=result)
    return Ended(**{**vars(ended), "log": "\n".join(outside.log)})


def _judge(database: Database, work: Work, error: Exception) -> Ended:
    """As `orchestration.failures` and `orchestration.long_waits` do."""
    name = f"{type(error).__name__}: {error}"
    lock = error.lock if isinstance(error, LockTakenError) else None
    if isinstance(error, LockLostError):
        lock = None
    wait = _seconds_to_wait(error)
    if wait is None:
        return Ended(error=name)
    if lock is None and (is_passing_fault(error) or wait <= LONGEST_WAIT_IN_RUN):
        return Ended(error=name, wait=wait)
    with database.transaction() as connection:
        deferrals.defer(
            connection,
            work.asset,
            work.partition_key,
            wait=timedelta(seconds=0 if lock else wait),
            reason=name,
            waits_for_lock=lock,
            made_progress=False,
            run_id="simulation",
        )
    return Ended(error=name, deferred=True)


def _seconds_to_wait(error: Exception) -> float | None:
    if isinstance(error, ThrottledError):
        return error.wait_seconds
    if isinstance(error, TransientError | RowsNotReceivedError | LockTakenError):
        return _FIRST_WAIT
    if not isinstance(error, GraphApiError | DeliveryError | TokenPullError):
        return _FIRST_WAIT if is_passing_fault(error) else None
    return None


class _Run:
    """The assets' bodies."""

    def __init__(self, database: Database, storage: Storage, home: Path, outside: Outside) -> None:
        self._database = database
        self._storage = storage
        self._home = home
        self._outside = outside
        self._say = logging.getLogger("simulation").info

    def audience_upload(self, work: Work) -> None:
        """The job daily_upload: customer_list, hashed_payload, audience_upload, match_status."""
        audience, day = AUDIENCES[work.key], _day(work)
        path = list_path(self._home, audience.key, day)
        if path.exists():
            self._hash(audience.key, day, str(path))
        with self._client(f"ad_account:{audience.ad_account_id}") as client:
            upload(
                self._context(client),
                UploadPlan(
                    AudienceSpec(
                        audience=audience.key,
                        page_id=audience.page_id,
                        ad_account_id=audience.ad_account_id,
                        name=audience.key,
                        description="People who agreed to receive messages",
                    ),
                    day,
                    mode=audience.mode,
                    removal_share=1.0,
                ),
                partial(match_suppressed, self._database, SUPPRESSION_KEY),
                [OptOuts(self._database, self._storage, SUPPRESSION_KEY, day)],
            )
        self.match_status(work)

    def _hash(self, audience: str, day: date, url: str) -> None:
        source = FileSource(url)
        report = inspect_list(source, default_country="DE")
        with self._database.transaction() as connection:
            lists.record(connection, audience, day, report)
        payload = build_hashed_payload(
            source,
            self._storage,
            folder=f"hashed_payload/{audience}/{day}",
            default_country="DE",
            expected_fingerprint=report.fingerprint,
            suppression=SuppressionList.load(self._database, SUPPRESSION_KEY),
        )
        quarantine.replace(
            self._database, audience, day, "hashed_payload", payload.rejected_rows.frames()
        )
        with self._database.transaction() as connection:
            payloads.record(
                connection,
                payloads.HashedPayload(
                    audience,
                    day,
                    sha256=payload.sha256,
                    path=payload.path,
                    rows=payload.accepted,
                    no_row_lost=payload.no_row_lost,
                ),
            )

    def match_status(self, work: Work) -> None:
        """Compute the status; poll Meta if it is overdue."""
        audience, day = AUDIENCES[work.key], _day(work)
        status = self._refresh(audience.key, day)
        if status.status != "overdue" or status.custom_audience_id is None:
            return
        with self._client(f"ad_account:{audience.ad_account_id}", throttled=False) as client:
            found = get_custom_audience(client, status.custom_audience_id)
            sessions = list_sessions(client, status.custom_audience_id)
        with self._database.transaction() as connection:
            observations.record(
                connection,
                audience.key,
                UploadObservation(
                    custom_audience_id=status.custom_audience_id,
                    lower_bound=found.approximate_count_lower_bound,
                    upper_bound=found.approximate_count_upper_bound,
                    operation_status_code=None,
                    delivery_status_code=None,
                    sessions=[
                        SessionObservation(
                            session_id=int(session.session_id),
                            stage=session.stage,
                            progress=session.progress,
                            num_received=session.num_received,
                            num_invalid_entries=session.num_invalid_entries,
                            num_matched=session.num_matched,
                            end_time=session.end_time,
                        )
                        for session in sessions
                    ],
                ),
            )
        self._refresh(audience.key, day)

    def _refresh(self, audience: str, day: date) -> MatchStatus:
        with self._database.transaction() as connection:
            status, _ = statuses.refresh(
                connection,
                audience,
                day,
                overdue_after=OVERDUE_AFTER,
                run_id="simulation",
                app_id=APP_ID,
            )
        return status

    def subscription_tokens(self, work: Work) -> None:
        """Pull the Page's tokens."""
        with self._client(f"page:{work.key}", throttled=False) as client:
            pull_tokens(client, self._database, work.key, removal_share=1.0)

    def sendable_tokens(self, work: Work) -> None:
        """Publish the sender's file."""
        publish_sendable(self._database, self._storage, work.key, work.key, FileFormat.CSV)

    def messaging_optins(self, work: Work) -> None:
        """Apply opt-ins, STOP and RESUME."""
        apply_consent_events(self._database, work.key, "simulation")

    def optin_requests(self, work: Work) -> None:
        """Record who wrote; the simulation asks no one to opt in."""
        apply_messages(self._database, work.key, "simulation")

    def unsubscribes(self, work: Work) -> None:
        """Suppress, unsubscribe, search and clean up; an error does not stop the other steps."""
        plan = OptOutPlan(work.key, SUPPRESSION_KEY, default_country="DE")
        summary = OptOutSummary()
        opt_outs = suppress(self._database, plan, summary)
        errors: list[Exception] = []
        if opt_outs:
            with _collected(errors):
                self._unsubscribe(opt_outs, plan, summary)
        with _collected(errors):
            audience_search.search(self._database, self._storage, SUPPRESSION_KEY)
        with self._database.transaction() as connection:
            due = audience_cleanup.due(connection)
        for cleanup in due:
            if cleanup.page_id == work.key:
                with _collected(errors):
                    self._clean_up(cleanup, _day(work))
        if errors:
            raise errors[0]

    def _unsubscribe(
        self, opt_outs: Sequence[OptOut], plan: OptOutPlan, summary: OptOutSummary
    ) -> None:
        with self._client(f"page:{plan.page_id}") as client:
            unsubscribe_at_meta(self._database, client, opt_outs, plan, summary)

    def _clean_up(self, due: audience_cleanup.DueCleanup, day: date) -> None:
        account = AUDIENCES[due.audience].ad_account_id
        with self._client(f"ad_account:{account}") as client:
            remove_opted_out_members(self._context(client), due, SUPPRESSION_KEY, day)

    def _context(self, client: GraphApiClient) -> DeliveryContext:
        return DeliveryContext(
            self._database,
            self._storage,
            client,
            self._say,
            Sending(batch_size=BATCH_SIZE, minimum_upload=MINIMUM_UPLOAD),
        )

    def inspection(self, work: Work) -> dict[str, Any]:
        """The members of each audience by our ledger, and each Page's tokens here and at Meta."""
        with self._database.transaction() as connection:
            targets = custom_audience.all_recorded(connection)
        members = {
            target.audience: membership.current(
                self._database, self._storage, target.custom_audience_id
            )
            for target in targets
        }
        listed = {}
        for page_id in PAGE_IDS:
            with self._client(f"page:{page_id}", throttled=False) as client:
                pages = list(iter_token_pages(client, page_id))
            listed[page_id] = sorted({token for page in pages for token in page["token"]})
        live = {page_id: self._live_tokens(page_id) for page_id in PAGE_IDS}
        return {
            "members": {key: _rows(self._storage, each) for key, each in members.items()},
            "listed": listed,
            "live": live,
        }

    def _live_tokens(self, page_id: str) -> list[str]:
        with self._database.transaction() as connection:
            return sorted(connection.scalars(_LIVE_TOKENS, {"page_id": page_id}))

    def _client(self, account: str, *, throttled: bool = True) -> GraphApiClient:
        throttle = SharedThrottle(self._database, account, SYSTEM_USER_TOKEN) if throttled else None
        return GraphApiClient(
            SYSTEM_USER_TOKEN,
            base_url="http://meta.invalid",
            throttle=throttle,
            retries=RetryPolicy(jitter=lambda low, _: low),
            transport=self._outside.transport(),
            sleep=self._outside.sleep,
        )


def _day(work: Work) -> date:
    if work.day is None:
        raise ValueError(f"{work.asset} has a day")
    return work.day


def _rows(storage: Storage, members: membership.Members) -> list[str]:
    frame = members.frame(storage).collect()
    return [
        f"{email or ''}|{phone or ''}" for email, phone in frame.select("EMAIL", "PHONE").rows()
    ]


@contextmanager
def _collected(errors: list[Exception]) -> Iterator[None]:
    try:
        yield
    except (GraphApiError, DeliveryError, LockTakenError) as error:
        errors.append(error)
