"""Who stands in an audience is what was added less what was removed, however it is stored."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_pipelines.concurrent import prefetch
from mm_pipelines.delivery import anti_join as frames
from mm_pipelines.delivery import custom_audience, membership
from mm_pipelines.delivery.anti_join import PeopleQuery, slices
from tests.delivery.desk import DAY, Desk, keys, people


def standing(desk: Desk) -> set[str]:
    """The members by our own record."""
    custom_audience_id = desk.sandbox.audience_id()
    with desk.database.transaction() as connection:
        found = membership.members_of(connection, custom_audience_id)
    frame = found.frame(desk.storage).collect()
    assert frame.height == found.count
    return {f"{email}|{phone}" for email, phone in frame.iter_rows()}


def test_after_many_days_of_coming_and_going_our_record_is_what_meta_has(desk: Desk) -> None:
    for day in range(12):
        desk.publish(people(120, start=day * 10), day=DAY + timedelta(days=day))
        desk.upload(mode="mirror", day=DAY + timedelta(days=day))
        assert standing(desk) == desk.sandbox.members() == keys(people(120, start=day * 10))


def test_many_days_of_newcomers_are_folded_into_one_file(desk: Desk) -> None:
    for day in range(12):
        desk.publish(people(10, start=day * 10), day=DAY + timedelta(days=day))
        desk.upload(day=DAY + timedelta(days=day))
    with desk.database.transaction() as connection:
        file = membership.find(connection, desk.sandbox.audience_id())
    assert file is not None
    assert file.people >= 90
    assert standing(desk) == keys(people(120))


def test_a_new_custom_audience_begins_without_members(desk: Desk) -> None:
    desk.publish(people(150))
    desk.upload()
    with desk.database.transaction() as connection:
        (known,) = custom_audience.all_recorded(connection)
        custom_audience.record(
            connection,
            custom_audience.CustomAudience(**{**vars(known), "custom_audience_id": "9"}),
        )
        assert membership.members_of(connection, "9").count == 0


def test_joins_by_bucket_find_the_same_people(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "ROWS_PER_BUCKET", 100)
    desk.publish([*people(500), ("", "15550001111"), ("mail@example.com", "")])
    desk.upload(mode="mirror")
    desk.publish([*people(500, start=100), ("", "15550001111")])

    summary = desk.upload(mode="mirror")

    assert (summary.new_people, summary.removed_people) == (100, 101)
    assert desk.sandbox.members() == keys([*people(500, start=100), ("", "15550001111")])


@settings(max_examples=50, deadline=None)
@given(total=st.integers(0, 400), start=st.integers(0, 400), size=st.integers(1, 150))
def test_slices_hold_every_row_of_a_range_once_in_order(total: int, start: int, size: int) -> None:
    frame = pl.LazyFrame({"row": range(total)}, schema={"row": pl.Int64})
    wanted = range(min(start, total), total)
    parts = list(slices(frame, wanted, size))
    assert [row for _, part in parts for row in part["row"]] == list(wanted)
    assert all(part["row"][0] == first for first, part in parts)
    assert all(part.height == size for _, part in parts[:-1])


def test_making_ahead_raises_what_making_raises() -> None:
    def items() -> object:
        yield 1
        raise OSError("the file ended")

    made = prefetch(iter(items()))  # type: ignore[call-overload]
    assert next(made) == 1
    with pytest.raises(OSError, match="the file ended"):
        next(made)


def test_a_query_without_people_writes_an_empty_file(tmp_path: Path) -> None:
    nobody = pl.LazyFrame(schema={"EMAIL": pl.String, "PHONE": pl.String})
    query = PeopleQuery(nobody, 0, chosen=lambda keys, _: keys, sent=lambda rows: rows)
    query.write(tmp_path / "empty.parquet")
    assert query.count() == 0
    assert pl.read_parquet(tmp_path / "empty.parquet").columns == ["EMAIL", "PHONE"]
