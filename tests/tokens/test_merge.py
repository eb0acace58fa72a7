"""Merging listings, held against a reference model on random histories."""

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from mm_pipelines.tokens.pull_record import start_pull
from mm_pipelines.tokens.subscription_token import LISTED_TOKEN, Merged, Source, staging
from mm_pipelines.warehouse.database import Database
from tests.tokens.model import NOW, Filtered, Listed, TokenTable, frame

PAGES = (str(number) for number in itertools.count(1))

_TABLE = text(f"""
select {", ".join(LISTED_TOKEN.names())}, source, gone_at is not null as gone
from mm.subscription_token where page_id = :page_id
""")
_LAST_SEEN = text("select token, last_seen_at from mm.subscription_token where page_id = :page_id")
_STATE_AT = text("""
select token, live, user_token_status, reoptin, expires_at
from mm.token_at(:page_id, cast(:moment as timestamptz))
""")

tokens = st.sampled_from("abcdef")
moments = st.sampled_from(
    [None, NOW - timedelta(days=9), NOW - timedelta(days=2), NOW + timedelta(days=5)]
)
titles = st.sampled_from([None, "Updates", "Offers"])
reoptins = st.sampled_from([None, "ENABLED", "DISABLED"])
audiences = st.sampled_from([("1",), ("2",), ("1", "2")])
full = st.builds(
    Listed,
    token=tokens,
    recipient_id=st.sampled_from(["p", "q"]),
    topic_title=titles,
    reoptin=reoptins,
    user_token_status=st.sampled_from([None, "REFRESHED", "NOT_REFRESHED"]),
    timezone=st.sampled_from([None, "Asia/Manila"]),
    created_at=moments,
    expires_at=moments,
    next_eligible_at=moments,
)
reduced = st.builds(
    Listed,
    token=tokens,
    topic_title=titles,
    reoptin=reoptins,
    custom_audience_ids=st.none() | audiences,
)
listings = st.lists(full | reduced, max_size=8)
answers = st.lists(reduced, max_size=3)


def merge(
    database: Database,
    page_id: str,
    pages: Sequence[list[Listed]],
    filtered: Sequence[tuple[list[Listed], str | None, Source | None]] = (),
    *,
    complete: bool = True,
) -> Merged:
    """One pull, or one merge without a pull, from the staging to the commit."""
    with staging(database) as staged:
        pull = None
        if complete:
            with database.transaction() as connection:
                pull = start_pull(connection, page_id, "listing")
        for rows in pages:
            staged.append(frame(rows))
        for rows, audience, source in filtered:
            staged.append_filtered(frame(rows), custom_audience_id=audience, source=source)
        return staged.merge(page_id, staged.compare(page_id, pull), pull)


def table(database: Database, page_id: str) -> dict[str, dict[str, Any]]:
    with database.transaction() as connection:
        rows = connection.execute(_TABLE, {"page_id": page_id}).mappings()
        return {
            row["token"]: {**row, "custom_audience_ids": tuple(row["custom_audience_ids"])}
            for row in rows
        }


def last_seen(database: Database, page_id: str) -> dict[str, Any]:
    with database.transaction() as connection:
        rows = connection.execute(_LAST_SEEN, {"page_id": page_id})
        return {row.token: row.last_seen_at for row in rows}


def view(database: Database, page_id: str, name: str) -> list[str]:
    with database.transaction() as connection:
        return list(
            connection.scalars(
                text(f"select token from mm.{name} where page_id = :page_id"), {"page_id": page_id}
            )
        )


def indexes(database: Database) -> set[tuple[str, bool]]:
    with database.transaction() as connection:
        return {
            (row.definition, row.indisvalid)
            for row in connection.execute(
                text("""
                select pg_get_indexdef(indexrelid) as definition, indisvalid
                from pg_index where indrelid = 'mm.subscription_token'::regclass
                """)
            )
        }


class Histories(RuleBasedStateMachine):
    """Pulls and single answers in any order, on a Page of their own."""

    database: ClassVar[Database]

    @initialize()
    def begin(self) -> None:
        self.page_id = next(PAGES)
        self.model = TokenTable()
        self.past: list[tuple[Any, set[tuple[object, ...]]]] = []

    @rule(rows=listings, matched=answers, came=answers, shuffle=st.randoms())
    def complete_pull(
        self, rows: list[Listed], matched: list[Listed], came: list[Listed], shuffle: Any
    ) -> None:
        pages = [rows[::2], rows[1::2]]
        for page in pages:
            shuffle.shuffle(page)
        told = [Filtered(row.token, custom_audience_id="3") for row in matched]
        told += [Filtered(row.token, source="automation") for row in came]
        self.step(rows + matched + came, told, complete=True)
        merge(
            self.database,
            self.page_id,
            pages,
            [(matched, "3", None), (came, None, "automation")],
        )
        self.remember()

    @rule(rows=listings)
    def asked_one_by_one(self, rows: list[Listed]) -> None:
        self.step(rows, [], complete=False)
        merge(self.database, self.page_id, [rows], complete=False)
        self.remember()

    def step(self, rows: list[Listed], told: list[Filtered], *, complete: bool) -> None:
        self.model.merge(rows, told, complete=complete)

    def remember(self) -> None:
        with self.database.transaction() as connection:
            moment = connection.scalar(text("select clock_timestamp()"))
        self.past.append(
            (
                moment,
                {
                    (k.token, not k.gone, k.user_token_status, k.reoptin, k.expires_at)
                    for k in self.model.known.values()
                },
            )
        )

    @invariant()
    def the_table_is_the_models(self) -> None:
        expected = {token: vars(known) for token, known in self.model.known.items()}
        assert table(self.database, self.page_id) == expected

    @invariant()
    def the_views_are_the_models(self) -> None:
        for name, expected in (
            ("deduplicated_token", self.model.deduplicated()),
            ("sendable_token", self.model.sendable()),
        ):
            assert sorted(view(self.database, self.page_id, name)) == sorted(expected)

    def teardown(self) -> None:
        with self.database.transaction() as connection:
            for moment, state in getattr(self, "past", []):
                at = connection.execute(
                    _STATE_AT, {"page_id": self.page_id, "moment": moment}
                ).all()
                assert {tuple(row) for row in at} == state


def run_histories(on: Database, *, examples: int) -> None:
    class HistoriesOn(Histories):
        database = on

    run_state_machine_as_test(
        HistoriesOn,
        settings=settings(max_examples=examples, stateful_step_count=6, deadline=None),
    )


def test_random_histories_end_as_the_reference_model_says(database: Database) -> None:
    run_histories(database, examples=10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_random_histories_end_as_the_reference_model_says(database: Database) -> None:
    run_histories(database, examples=100)


def test_merging_a_listing_again_changes_only_when_tokens_were_last_seen(
    database: Database,
) -> None:
    rows = [Listed("a", recipient_id="p"), Listed("b", custom_audience_ids=("1",))]
    merge(database, "1", [rows])
    before, seen_before = table(database, "1"), last_seen(database, "1")
    again = merge(database, "1", [rows, rows])
    assert again == Merged(listed=2, appeared=0, opted_in=0, changed=0, returned=0, vanished=0)
    assert table(database, "1") == before
    seen = last_seen(database, "1")
    assert all(seen_before[token] < seen[token] for token in ("a", "b"))


def test_of_a_gone_token_the_last_sight_stays(database: Database) -> None:
    merge(database, "1", [[Listed("a"), Listed("b")]])
    seen = last_seen(database, "1")
    merge(database, "1", [[Listed("a")]])
    assert last_seen(database, "1")["b"] == seen["b"]
    assert table(database, "1")["b"]["gone"]


def test_a_page_never_touches_another_pages_tokens(database: Database) -> None:
    merge(database, "1", [[Listed("a")]])
    merge(database, "2", [[Listed("b")]])
    assert not table(database, "1")["a"]["gone"]


def test_the_first_tokens_of_all_leave_the_table_indexed_as_it_was(database: Database) -> None:
    before = indexes(database)
    assert len(before) > 1
    merge(database, "1", [[Listed("a", recipient_id="p")]])
    assert indexes(database) == before


def test_first_pulls_of_several_pages_at_once_wait_for_one_another(database: Database) -> None:
    before = indexes(database)
    at_once = threading.Barrier(6)

    def first_pull(page_id: str) -> Merged:
        with staging(database) as staged:
            with database.transaction() as connection:
                pull = start_pull(connection, page_id, "listing")
            staged.append(frame([Listed(f"{page_id}-{number}") for number in range(500)]))
            at_once.wait()
            return staged.merge(page_id, staged.compare(page_id, pull), pull)

    with ThreadPoolExecutor(6) as threads:
        merged = list(threads.map(first_pull, "123456"))
    assert [one.appeared for one in merged] == [500] * 6
    assert indexes(database) == before


def test_a_token_that_a_webhook_brought_during_a_pull_is_not_gone(database: Database) -> None:
    merge(database, "1", [[Listed("a")]])
    with staging(database) as staged:
        with database.transaction() as connection:
            pull = start_pull(connection, "1", "listing")
        staged.append(frame([Listed("a")]))
        merge(database, "1", [[Listed("b", recipient_id="p")]], complete=False)
        staged.merge("1", staged.compare("1", pull), pull)
    assert not table(database, "1")["b"]["gone"]


def test_a_third_of_25_000_tokens_recipients_holding_several_leaves_one_each(
    database: Database,
) -> None:
    rows = [
        Listed(
            f"t{person}-{nth}",
            recipient_id=f"p{person}",
            reoptin="ENABLED" if (person + nth) % 4 else "DISABLED",
            created_at=NOW - timedelta(days=person % 90, hours=nth),
            expires_at=None if (person + nth) % 5 else NOW + timedelta(days=nth - 1),
        )
        for person in range(12_000)
        for nth in range(1 if person % 3 else 3)
    ]
    rows += [Listed(f"a{number}", custom_audience_ids=("1",)) for number in range(5_000)]
    assert len(rows) == 25_000
    merge(database, "1", [rows[::-1][start : start + 1_000] for start in range(0, 25_000, 1_000)])
    model = TokenTable()
    model.merge(rows, [], complete=True)
    assert len(model.known) == 25_000
    assert sorted(view(database, "1", "deduplicated_token")) == sorted(model.deduplicated())
