"""Opt-outs while a pull merges the tokens of a large Page."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.consent import opt_out_requests
from mm_pipelines.consent.messenger_events import apply_consent_events
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.consent.opt_outs import OptOutPlan, OptOutSummary, suppress
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.pull_record import start_pull
from mm_pipelines.tokens.subscription_token import LISTED_TOKEN, Merged, staging
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from tests.consent.page import PAGE_ID, optin_event

PLAN = OptOutPlan(PAGE_ID, SuppressionKeys(b"suppression key of the tests"), default_country="US")


def listing(tokens: int, number: int) -> pl.DataFrame:
    """The whole listing; every token has another title each time, so each row is updated."""
    of = pl.int_range(tokens, eager=True).cast(pl.String)
    listed = pl.DataFrame({"token": of}).with_columns(
        recipient_id=pl.concat_str(pl.lit("p"), "token"),
        topic_title=pl.lit(f"News {number}"),
        created_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
    )
    columns = [
        pl.col(name) if name in listed.columns else pl.lit(None).alias(name)
        for name in LISTED_TOKEN.names()
    ]
    return listed.select(columns).cast(LISTED_TOKEN)


def merge(database: Database, frame: pl.DataFrame) -> Merged:
    with staging(database) as staged:
        with database.transaction() as connection:
            pull = start_pull(connection, PAGE_ID, "listing")
        staged.append(frame)
        return staged.merge(PAGE_ID, staged.compare(PAGE_ID, pull), pull)


def opt_out(database: Database, people: range) -> None:
    """A third each by PSID, by token, and by STOP."""
    by_psid, by_token, by_stop = (people[place::3] for place in range(3))
    with database.transaction() as connection:
        requests = [NewRequest(psid=f"p{number}") for number in by_psid]
        requests += [NewRequest(subscriber_token=str(number)) for number in by_token]
        opt_out_requests.receive(connection, PAGE_ID, requests, "command")
    now = datetime.now(UTC)
    stops = [optin_event(number, f"p{number}", str(number), now, "STOP") for number in by_stop]
    with database.transaction() as connection:
        webhook_event.insert(connection, stops)
    apply_consent_events(database, PAGE_ID, "run")
    suppress(database, PLAN, OptOutSummary())


def repeat(database: Database, *, tokens: int, leavers: int, repetitions: int) -> None:
    merge(database, listing(tokens, 0))
    for number in range(1, repetitions + 1):
        leaving = range(leavers * (number - 1), leavers * number)
        frame = listing(tokens, number)
        both_ready = threading.Barrier(2, timeout=60)
        with ThreadPoolExecutor(2, initializer=both_ready.wait) as pool:
            merging = pool.submit(merge, database, frame)
            pool.submit(opt_out, database, leaving).result()
            merged = merging.result()
        assert merged.changed == tokens
        with database.transaction() as connection:
            sendable = connection.scalar(text("select count(*) from mm.sendable_token"))
        assert sendable == tokens - leavers * number


def test_opt_outs_and_a_merge_do_not_block_each_other_for_good(database: Database) -> None:
    repeat(database, tokens=3_000, leavers=60, repetitions=3)


@pytest.mark.slow
def test_300_leavers_beside_a_merge_of_120_000_tokens(database: Database) -> None:
    repetitions = int(os.environ.get("MM_TRIAL_REPETITIONS", "100"))
    repeat(database, tokens=120_000, leavers=300, repetitions=repetitions)
