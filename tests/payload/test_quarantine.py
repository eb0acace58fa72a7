"""What was left out is known by row number and reason, each stage for itself."""

from collections.abc import Iterator
from datetime import date

import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.payload import quarantine
from mm_pipelines.warehouse.database import Database

DAY = date(2026, 11, 20)


def frame(*rows: tuple[int, list[str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=quarantine.FRAME_SCHEMA, orient="row")


def kept(database: Database, stage: str) -> dict[int, list[str]]:
    with database.transaction() as connection:
        found = connection.execute(
            text("select row_number, reasons from mm.rejected_row where stage = :stage"),
            {"stage": stage},
        )
        return {row.row_number: row.reasons for row in found}


def test_replacing_writes_every_frame_and_keeps_the_other_stage(database: Database) -> None:
    with database.transaction() as connection:
        quarantine.add(connection, "acme", DAY, "audience_upload", [4], "invalid_at_meta")
    frames = [
        frame((1, ["no_identifier"])),
        frame(),
        frame((7, ["invalid_email", "no_identifier"])),
    ]

    written = quarantine.replace(database, "acme", DAY, "hashed_payload", frames)

    assert written == 2
    assert kept(database, "hashed_payload") == {
        1: ["no_identifier"],
        7: ["invalid_email", "no_identifier"],
    }
    assert kept(database, "audience_upload") == {4: ["invalid_at_meta"]}


def test_replacing_again_forgets_what_is_no_longer_rejected(database: Database) -> None:
    quarantine.replace(database, "acme", DAY, "hashed_payload", [frame((1, ["no_identifier"]))])
    quarantine.replace(database, "acme", DAY, "hashed_payload", [])
    assert kept(database, "hashed_payload") == {}


def test_a_source_that_fails_halfway_changes_nothing(database: Database) -> None:
    quarantine.replace(database, "acme", DAY, "hashed_payload", [frame((1, ["no_identifier"]))])

    def broken() -> Iterator[pl.DataFrame]:
        yield frame((2, ["invalid_email"]))
        raise OSError("the list cannot be read further")

    with pytest.raises(OSError, match="cannot be read"):
        quarantine.replace(database, "acme", DAY, "hashed_payload", broken())
    assert kept(database, "hashed_payload") == {1: ["no_identifier"]}


def test_a_reason_added_twice_is_stored_once(database: Database) -> None:
    with database.transaction() as connection:
        for _ in range(2):
            quarantine.add(connection, "acme", DAY, "audience_upload", [9, 3, 9], "invalid_at_meta")
        quarantine.add(connection, "acme", DAY, "audience_upload", [3], "subscriber_invalid")
    assert kept(database, "audience_upload") == {
        3: ["invalid_at_meta", "subscriber_invalid"],
        9: ["invalid_at_meta"],
    }
