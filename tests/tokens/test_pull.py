"""A pull against the sandbox over HTTP."""

from sqlalchemy import text

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.token_counts import token_counts
from tests.tokens.conftest import PAGE_ID, PEOPLE


def test_a_pull_brings_every_token_once_and_one_per_recipient(
    client: GraphApiClient, database: Database
) -> None:
    report = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        counts = token_counts(connection, PAGE_ID)
    # A third of the people hold two or three tokens.
    assert report.merged.listed == report.merged.appeared == counts.live > PEOPLE
    assert counts.deduplicated == PEOPLE
    assert counts.duplicates == counts.live - PEOPLE


def test_pulling_again_changes_nothing_but_when_tokens_were_last_seen(
    client: GraphApiClient, database: Database
) -> None:
    rows = text("select * from mm.subscription_token order by token")
    pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        before = connection.execute(rows).mappings().all()
    again = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        after = connection.execute(rows).mappings().all()
    assert again.merged.appeared == again.merged.changed == again.merged.vanished == 0
    for old, new in zip(before, after, strict=True):
        assert old["last_seen_at"] < new["last_seen_at"]
        assert {**old, "last_seen_at": None} == {**new, "last_seen_at": None}


def test_metas_filters_tell_how_people_came(client: GraphApiClient, database: Database) -> None:
    report = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        counts = token_counts(connection, PAGE_ID)
    # The sandbox's people come by four ways in turn, one of which is no filter's.
    came = counts.by_source
    assert came["click_to_messenger"] + came["automation"] == report.sources_told
    assert 0 < came["opt_in"] == counts.live - report.sources_told
    assert came["automation"] > came["click_to_messenger"] > 0
