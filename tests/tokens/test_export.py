"""Sendable tokens as files."""

import json
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.storage import Storage
from mm_pipelines.tokens.export import COLUMNS, FileFormat, export_sendable, publish_sendable
from mm_pipelines.warehouse.database import Database

TOKENS = text("""
insert into mm.subscription_token (
    page_id, token, recipient_id, topic_title, created_at, expires_at, custom_audience_ids,
    source, first_seen_at, last_seen_at, gone_at
)
values
    ('1', 'b', 'p1', 'Offers, "new"', '2026-11-01 10:00+01', null, '{}', 'opt_in',
        now(), now(), null),
    ('1', 'a', null, 'Updates', null, null, '{12,7}', 'custom_audience', now(), now(), null),
    ('1', 'c', 'p3', 'Updates', null, '2099-01-01', '{}', 'opt_in', now(), now(), null),
    ('1', 'd', 'p4', 'Updates', null, null, '{}', 'opt_in', now(), now(), now()),
    ('2', 'e', 'p5', null, null, null, '{}', 'opt_in', now(), now(), null)
""")


@pytest.fixture
def tokens(database: Database) -> Database:
    with database.transaction() as connection:
        connection.execute(TOKENS)
    return database


def test_a_csv_has_the_sendable_tokens_of_one_page_in_order(
    tokens: Database, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "sendable.csv"
    assert export_sendable(tokens, "1", path, FileFormat.CSV) == 3
    assert path.read_text().splitlines() == [
        ",".join(COLUMNS),
        "1,a,,Updates,,,,12 7,custom_audience",
        '1,b,p1,"Offers, ""new""",,2026-11-01T09:00:00Z,,"",opt_in',
        '1,c,p3,Updates,,,2099-01-01T00:00:00Z,"",opt_in',
    ]


def test_parquet_has_the_same_rows_typed(tokens: Database, tmp_path: Path) -> None:
    path = tmp_path / "sendable.parquet"
    assert export_sendable(tokens, None, path, FileFormat.PARQUET) == 4
    frame = pl.read_parquet(path)
    assert frame["token"].to_list() == ["a", "b", "c", "e"]
    assert frame["custom_audience_ids"].to_list() == [["12", "7"], [], [], []]
    assert frame.schema["expires_at"] == pl.Datetime("us", "UTC")
    assert frame["recipient_id"].to_list() == [None, "p1", "p3", "p5"]


@pytest.mark.parametrize("file_format", FileFormat)
def test_the_same_tokens_make_the_same_file(
    tokens: Database, tmp_path: Path, file_format: FileFormat
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    export_sendable(tokens, "1", first, file_format)
    export_sendable(tokens, "1", second, file_format)
    assert first.read_bytes() == second.read_bytes()


def test_an_export_that_fails_leaves_the_file_before(tokens: Database, tmp_path: Path) -> None:
    path = tmp_path / "sendable.csv"
    path.write_text("the one before")
    with tokens.transaction() as connection:
        connection.execute(text("alter view mm.sendable_token rename to elsewhere"))
    with pytest.raises(Exception, match="sendable_token"):
        export_sendable(tokens, "1", path, FileFormat.CSV)
    assert path.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_manifest_names_a_whole_file_and_keeps_one_before_it(
    tokens: Database, storage: Storage
) -> None:
    def publish() -> tuple[str, str | None]:
        manifest = publish_sendable(tokens, storage, "acme", "1", FileFormat.CSV)
        latest = Path(storage.url("sendable_tokens/acme/latest.json"))
        assert json.loads(latest.read_text())["path"] == manifest.path
        assert Path(storage.url(manifest.path)).read_text().count("\n") == manifest.rows + 1
        return manifest.path, manifest.previous

    def lose(token: str) -> None:
        with tokens.transaction() as connection:
            connection.execute(
                text("update mm.subscription_token set gone_at = now() where token = :token"),
                {"token": token},
            )

    first, none = publish()
    assert none is None
    assert publish() == (first, None)
    lose("a")
    second, previous = publish()
    assert previous == first
    lose("b")
    third, previous = publish()
    assert previous == second
    files = {path.name for path in Path(storage.url("sendable_tokens/acme")).iterdir()}
    assert files == {Path(second).name, Path(third).name, "latest.json"}
