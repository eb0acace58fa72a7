"""The growth report, as Dagster runs it."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from sqlalchemy import text

from mm_pipelines.assets.growth_report import growth_report
from mm_pipelines.partitions import PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.warehouse.database import Database

TODAY = datetime.now(UTC).date()
TOKEN = text("""
insert into mm.subscription_token (page_id, token, source, first_seen_at, last_seen_at)
values ('134141414124123', '8123canary', 'opt_in', now(), now())
""")


def metadata_of(database: Database, page_day: PageDay) -> dict[str, object]:
    result = dg.materialize(
        [growth_report],
        partition_key=page_day.key,
        resources={"mm_database": DatabaseResource(url=database.url)},
    )
    (event,) = result.get_asset_materialization_events()
    return {name: entry.value for name, entry in event.materialization.metadata.items()}


def test_the_metadata_has_a_picture_a_table_and_numbers(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(TOKEN)
    metadata = metadata_of(database, PageDay("acme", TODAY))
    assert str(metadata["growth"]).startswith("![acme, ")
    assert f"| {TODAY} |" in str(metadata["last_days"])
    assert (metadata["tokens"], metadata["sendable"]) == (1, 1)
    assert "8123canary" not in str(metadata)


def test_an_unknown_number_of_sendable_tokens_is_not_plotted_as_zero(database: Database) -> None:
    metadata = metadata_of(database, PageDay("acme", TODAY - timedelta(days=1)))
    assert "sendable" not in metadata
    assert "tokens" not in metadata
    assert "| ? | ? |" in str(metadata["last_days"])
