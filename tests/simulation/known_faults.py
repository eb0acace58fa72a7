"""Faults that this software had or could have, put back to see how soon a simulation finds them.

`python -m tests.simulation --fault NAME` plays seeds with the fault until one is violated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock, patch

import polars as pl
from sqlalchemy import text

from mm_pipelines.delivery import ledger
from mm_pipelines.tokens import listing
from mm_pipelines.warehouse.database import Database, HeldLock

Fault = Callable[[Database], Any]


def wedge(_: Database) -> Any:
    """A batch that Meta refuses is not bisected: its delta stays open for ever."""

    def give_up(*arguments: Any, **_: Any) -> None:
        raise arguments[-1]

    return patch("mm_pipelines.delivery.refused_batches.RefusedBatches.isolate", give_up)


def lost_lock(_: Database) -> Any:
    """Two runs work on one audience at once."""

    @contextmanager
    def unlocked(self: Database, name: str, **_: Any) -> Iterator[HeldLock]:
        with self.engine.connect() as connection:
            yield HeldLock(name, connection)

    return patch.object(Database, "lock", unlocked)


def acknowledged_batch_sent_again(_: Database) -> Any:
    """Meta's acknowledgement is not recorded."""
    return patch.object(ledger, "acknowledge", MagicMock())


def stop_ignored_for_a_minute(database: Database) -> Any:
    """A STOP takes effect in the next run, not when it is stored."""

    @contextmanager
    def without_trigger() -> Iterator[None]:
        _execute(database, "alter table mm.webhook_event disable trigger user")
        yield
        _execute(database, "alter table mm.webhook_event enable trigger user")

    return without_trigger()


def token_wrongly_gone(_: Database) -> Any:
    """A pull loses the last token of a listing."""
    complete = listing.as_listed

    def shorter(tokens: pl.DataFrame) -> pl.DataFrame:
        return complete(tokens).head(max(tokens.height - 1, 0))

    return patch.object(listing, "as_listed", shorter)


def webhook_applied_twice(database: Database) -> Any:
    """A redelivered webhook is stored as a new event."""

    @contextmanager
    def with_new_keys() -> Iterator[None]:
        _execute(
            database,
            """
            create function sim.new_key() returns trigger language plpgsql as $$
            begin new.dedupe_key := new.dedupe_key || nextval('sim.tick'); return new; end $$;
            create trigger new_key before insert on mm.webhook_event
            for each row execute function sim.new_key()
            """,
        )
        yield
        _execute(database, "drop function sim.new_key() cascade")

    return with_new_keys()


def deferred_work_forgotten(_: Database) -> Any:
    """The sensor does not request deferred work."""
    return patch("tests.simulation.daemon.Daemon._deferred", lambda *_: iter(()))


def opted_out_person_uploaded(_: Database) -> Any:
    """The suppression list is empty for lists and uploads."""
    return patch(
        "tests.simulation.runs.match_suppressed",
        lambda *_: pl.DataFrame(schema={"EMAIL": pl.String, "PHONE": pl.String}),
    )


def membership_forgets_removals(_: Database) -> Any:
    """Removed people count as members."""
    return patch("mm_pipelines.delivery.membership.Members.removed", lambda *_: None)


def report_of_another_app_taken(_: Database) -> Any:
    """An upload report of another app is assigned to our batch."""
    return patch("tests.simulation.runs.APP_ID", None)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        wedge,
        lost_lock,
        acknowledged_batch_sent_again,
        stop_ignored_for_a_minute,
        token_wrongly_gone,
        webhook_applied_twice,
        deferred_work_forgotten,
        opted_out_person_uploaded,
        membership_forgets_removals,
        report_of_another_app_taken,
    )
}


def _execute(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement))
