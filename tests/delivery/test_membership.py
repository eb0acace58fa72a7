"""The members of an audience are what was added less what was removed, however it is stored."""

import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_pipelines.concurrent import prefetch
from mm_pipelines.delivery import custom_audience, delta_file, membership
from mm_pipelines.delivery.anti_join import IDENTITY, PeopleQuery, keyed, slices
from mm_pipelines.delivery.delta_file import Candidates
from mm_pipelines.delivery.deltas import Delta, Operation
from mm_pipelines.storage import Storage
from tests.delivery.sandbox_delivery import DAY, SandboxDelivery, keys, people

Person = tuple[str, str]


def standing(delivery: SandboxDelivery) -> set[str]:
    """The members by our own record."""
    custom_audience_id = delivery.sandbox.audience_id()
    with delivery.database.transaction() as connection:
        found = membership.members_of(connection, custom_audience_id)
    frame = found.frame(delivery.storage).collect()
    assert frame.height == found.count
    return {f"{email}|{phone}" for email, phone in frame.iter_rows()}


def test_after_many_days_of_coming_and_going_our_record_is_what_meta_has(
    delivery: SandboxDelivery,
) -> None:
    for day in range(12):
        delivery.publish(people(120, start=day * 10), day=DAY + timedelta(days=day))
        delivery.upload(mode="mirror", day=DAY + timedelta(days=day))
        assert standing(delivery) == delivery.sandbox.members() == keys(people(120, start=day * 10))


def test_many_days_of_newcomers_are_folded_into_one_file(delivery: SandboxDelivery) -> None:
    for day in range(20):
        delivery.publish(people(10, start=day * 10), day=DAY + timedelta(days=day))
        delivery.upload(day=DAY + timedelta(days=day))
    with delivery.database.transaction() as connection:
        file = membership.find(connection, delivery.sandbox.audience_id())
    assert file is not None
    assert file.people >= 90
    assert standing(delivery) == keys(people(200))


def test_a_new_custom_audience_begins_without_members(delivery: SandboxDelivery) -> None:
    delivery.publish(people(150))
    delivery.upload()
    with delivery.database.transaction() as connection:
        (known,) = custom_audience.all_recorded(connection)
        custom_audience.record(
            connection,
            custom_audience.CustomAudience(**{**vars(known), "custom_audience_id": "9"}),
        )
        assert membership.members_of(connection, "9").count == 0


def test_a_removal_does_not_rewrite_the_members(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload(mode="mirror")
    for day in range(1, 5):
        delivery.publish(people(300 - day), day=DAY + timedelta(days=day))
        delivery.upload(mode="mirror", day=DAY + timedelta(days=day))
    with delivery.database.transaction() as connection:
        assert membership.find(connection, delivery.sandbox.audience_id()) is None
    assert standing(delivery) == delivery.sandbox.members() == keys(people(296))


def test_people_without_an_email_or_a_phone_are_found_again(delivery: SandboxDelivery) -> None:
    delivery.publish([*people(500), ("", "15550001111"), ("mail@example.com", "")])
    delivery.upload(mode="mirror")
    delivery.publish([*people(500, start=100), ("", "15550001111")])

    summary = delivery.upload(mode="mirror")

    assert (summary.new_people, summary.removed_people) == (100, 101)
    assert delivery.sandbox.members() == keys([*people(500, start=100), ("", "15550001111")])


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
    empty = pl.LazyFrame(schema={"EMAIL": pl.String, "PHONE": pl.String})
    rows = keyed(empty.with_row_index("position"), "position")
    query = PeopleQuery(
        empty, {"people": rows}, "select position from people", sent=lambda row: row
    )
    query.write(tmp_path / "empty.parquet")
    assert query.count() == 0
    assert pl.read_parquet(tmp_path / "empty.parquet").columns == ["EMAIL", "PHONE"]


PEOPLE = st.sets(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "1", "2"])))


@settings(max_examples=60)
@given(listed=PEOPLE, history=st.lists(PEOPLE, max_size=4), leaving=PEOPLE)
def test_new_and_leaving_people_are_those_of_plain_sets(
    listed: set[Person], history: list[set[Person]], leaving: set[Person]
) -> None:
    """Odd entries of the history remove, even entries add those who are no members yet."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        changes, members = [], set[Person]()
        for number, named in enumerate(history):
            changed = named & members if number % 2 else named - members
            members = members - changed if number % 2 else members | changed
            changes.append(change_of(storage, changed, "remove" if number % 2 else "add"))
        known = membership.Members("1", None, tuple(changes))
        candidates = Candidates(frame_of(listed), IDENTITY, len(listed))

        added = chosen(
            delta_file.new_people(storage, candidates, known, frame_of(leaving).collect())
        )
        removed = chosen(delta_file.leaving_people(storage, frame_of(leaving), known))

    emails = {email for email, _ in leaving} - {""}
    phones = {phone for _, phone in leaving} - {""}
    gone = {person for person in members if person[0] in emails or person[1] in phones}
    stay = members - gone
    assert added == {
        (email, phone)
        for email, phone in listed - members
        if email not in emails and phone not in phones
    }
    sent = {
        (email * (email not in {e for e, _ in stay}), phone * (phone not in {p for _, p in stay}))
        for email, phone in gone
    }
    assert removed == sent - {("", "")}


def frame_of(people: Iterable[Person]) -> pl.LazyFrame:
    schema = {"EMAIL": pl.String, "PHONE": pl.String}
    frame = pl.DataFrame(sorted(people), schema=schema, orient="row")
    return frame.lazy().with_columns(row_number=pl.int_range(pl.len(), dtype=pl.Int64))


def change_of(storage: Storage, people: set[Person], operation: Operation) -> membership.Change:
    frame = frame_of(people).collect()
    path = storage.publish("deltas", ".parquet", frame.write_parquet).path
    delta = Delta(
        id=1,
        audience="a",
        day=DAY,
        custom_audience_id="1",
        operation=operation,
        origin="payload",
        source_sha256="",
        path=path,
        row_count=frame.height,
        keys=IDENTITY,
        created_at=datetime.now(UTC),
        topped_up=0,
    )
    rows = (range(frame.height),)
    return membership.Change(delta, rows, frame.height, is_certain=True, is_final=True)


def chosen(query: PeopleQuery) -> set[Person]:
    with tempfile.TemporaryDirectory() as folder:
        query.write(Path(folder, "chosen.parquet"))
        return set(pl.read_parquet(Path(folder, "chosen.parquet")).select(IDENTITY).rows())
