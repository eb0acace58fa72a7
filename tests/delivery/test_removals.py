"""People are taken out of the audiences in which they stand, and of no others."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl

from mm_pipelines.delivery import membership
from mm_pipelines.delivery.other_audiences import count_members
from mm_pipelines.delivery.removal_lists import RemovalList, RemovalSummary, remove_listed
from mm_pipelines.storage import Storage
from tests.delivery.desk import DAY, SPEC, Desk, hashed, keys, people

OTHER = replace(SPEC, audience="loyalty", name="Loyalty")


def leaving(*, emails: list[str] | None = None, phones: list[str] | None = None) -> pl.LazyFrame:
    """People who leave, known by an e-mail or a phone."""
    emails, phones = emails or [], phones or []
    return pl.LazyFrame(
        {
            "EMAIL": [hashed(email) for email in emails] + [""] * len(phones),
            "PHONE": [""] * len(emails) + [hashed(phone) for phone in phones],
        },
        schema={"EMAIL": pl.String, "PHONE": pl.String},
    )


def listed(desk: Desk, who: pl.LazyFrame, audience: str = SPEC.audience) -> RemovalList:
    """A removal list, published as its asset publishes it."""
    published = desk.storage.publish("removals", ".parquet", who.sink_parquet)
    return RemovalList(audience, DAY, published.sha256, (published.path,))


def remove(desk: Desk, who: pl.LazyFrame, audience: str = SPEC.audience) -> RemovalSummary:
    with desk.client() as client:
        return remove_listed(desk.context(client), listed(desk, who, audience))


def test_who_leaves_by_an_email_or_a_phone_is_taken_out(desk: Desk) -> None:
    crowd = people(500)
    desk.publish(crowd)
    desk.upload()
    who = leaving(emails=[crowd[3][0]], phones=[crowd[7][1]])

    summary = remove(desk, who)

    assert (summary.removed_people, summary.people_in_audience) == (2, 498)
    assert desk.sandbox.members() == keys([*crowd[:3], *crowd[4:7], *crowd[8:]])


def test_removing_the_same_people_again_sends_nothing(desk: Desk) -> None:
    desk.publish(people(300))
    desk.upload()
    who = leaving(emails=[email for email, _ in people(250)])
    remove(desk, who)

    summary = remove(desk, who)

    assert summary.removed_people == 0
    assert [batch["num_rows"] for batch in desk.sandbox.batches("remove")] == [100, 100, 50]


def test_people_who_never_stood_in_the_audience_are_not_told_to_meta(desk: Desk) -> None:
    desk.publish(people(200))
    desk.upload()
    assert remove(desk, leaving(emails=["stranger@example.com"])).removed_people == 0
    assert desk.sandbox.batches("remove") == []


def test_a_phone_shared_with_someone_who_stays_does_not_take_them_out(desk: Desk) -> None:
    household = [("ann@example.com", "15550001111"), ("", "15550001111")]
    desk.publish([*people(10), *household])
    desk.upload()

    remove(desk, leaving(emails=["ann@example.com"]))

    assert desk.sandbox.members() == keys([*people(10), household[1]])


def test_the_same_payload_does_not_bring_back_who_was_removed(desk: Desk) -> None:
    desk.publish(people(200))
    desk.upload()
    remove(desk, leaving(emails=[people(1)[0][0]]))
    assert desk.upload().rows == 0
    assert len(desk.sandbox.members()) == 199


def test_a_later_list_that_names_them_brings_them_back_as_new_people(desk: Desk) -> None:
    desk.publish(people(200))
    desk.upload()
    remove(desk, leaving(emails=[people(1)[0][0]]))
    tomorrow = DAY + timedelta(days=1)
    desk.publish(people(201), day=tomorrow)

    summary = desk.upload(day=tomorrow)

    assert summary.rows == 2
    assert summary.people_in_audience == 201
    assert desk.sandbox.members() == keys(people(201))


def test_the_audiences_are_found_from_our_own_record(desk: Desk) -> None:
    desk.publish(people(200))
    desk.upload()
    desk.publish(people(100), audience=OTHER.audience)
    desk.upload(spec=OTHER)
    person, stranger = leaving(phones=[people(1)[0][1]]), leaving(phones=["1"])

    def found(who: pl.LazyFrame, **options: str) -> dict[str, int]:
        return count_members(desk.database, desk.storage, who, **options)

    assert found(person) == {SPEC.audience: 1, OTHER.audience: 1}
    assert found(person, except_audience=SPEC.audience) == {OTHER.audience: 1}
    assert found(leaving(emails=[email for email, _ in people(300)])) == {
        SPEC.audience: 200,
        OTHER.audience: 100,
    }
    assert found(stranger) == {}
    remove(desk, person)
    assert found(person) == {OTHER.audience: 1}


def test_a_membership_file_that_is_replaced_meanwhile_is_no_error(
    desk: Desk, tmp_path: Path
) -> None:
    for number in range(3):
        desk.publish(people(100 + number), day=DAY + timedelta(days=number))
        desk.upload(day=DAY + timedelta(days=number))
        if number == 1:
            fold(desk)

    class Folding(Storage):
        """A storage on which another run folds the members just after their file was found."""

        folded = False

        def scan(self, path: str) -> pl.LazyFrame:
            if path.startswith("members/") and not self.folded:
                self.folded = True
                fold(desk)
            return super().scan(path)

    storage = Folding(str(tmp_path / "storage"))
    everyone = leaving(emails=[email for email, _ in people(102)])
    assert count_members(desk.database, storage, everyone) == {SPEC.audience: 102}
    assert storage.folded


def fold(desk: Desk) -> None:
    """Fold the members into one file, as retention does."""
    with desk.database.transaction() as connection:
        members = membership.members_of(connection, desk.sandbox.audience_id())
    membership.fold(desk.database, desk.storage, members, few=0)


def test_nobody_can_leave_an_audience_to_which_nothing_was_delivered(desk: Desk) -> None:
    summary = remove(desk, leaving(emails=["ann@example.com"]))
    assert (summary.removed_people, summary.people_in_audience) == (0, 0)
    assert desk.sandbox.get("calls")["calls"] == []
