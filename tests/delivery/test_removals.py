"""People are taken out of the audiences in which they stand, and of no others."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl

from mm_pipelines.delivery import membership
from mm_pipelines.delivery.other_audiences import count_members
from mm_pipelines.delivery.removal_lists import RemovalList, RemovalSummary, remove_listed
from mm_pipelines.storage import Storage
from tests.delivery.sandbox_delivery import DAY, SPEC, SandboxDelivery, hashed, keys, people

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


def listed(
    delivery: SandboxDelivery, who: pl.LazyFrame, audience: str = SPEC.audience
) -> RemovalList:
    """A removal list, published as its asset publishes it."""
    published = delivery.storage.publish("removals", ".parquet", who.sink_parquet)
    return RemovalList(audience, DAY, published.sha256, (published.path,))


def remove(
    delivery: SandboxDelivery, who: pl.LazyFrame, audience: str = SPEC.audience
) -> RemovalSummary:
    with delivery.client() as client:
        return remove_listed(delivery.context(client), listed(delivery, who, audience))


def test_who_leaves_by_an_email_or_a_phone_is_taken_out(delivery: SandboxDelivery) -> None:
    crowd = people(500)
    delivery.publish(crowd)
    delivery.upload()
    who = leaving(emails=[crowd[3][0]], phones=[crowd[7][1]])

    summary = remove(delivery, who)

    assert (summary.removed_people, summary.people_in_audience) == (2, 498)
    assert delivery.sandbox.members() == keys([*crowd[:3], *crowd[4:7], *crowd[8:]])


def test_removing_the_same_people_again_sends_nothing(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload()
    who = leaving(emails=[email for email, _ in people(250)])
    remove(delivery, who)

    summary = remove(delivery, who)

    assert summary.removed_people == 0
    assert [batch["num_rows"] for batch in delivery.sandbox.batches("remove")] == [100, 100, 50]


def test_people_who_were_never_members_are_not_sent_to_meta(delivery: SandboxDelivery) -> None:
    delivery.publish(people(200))
    delivery.upload()
    assert remove(delivery, leaving(emails=["stranger@example.com"])).removed_people == 0
    assert delivery.sandbox.batches("remove") == []


def test_a_phone_shared_with_someone_who_stays_does_not_take_them_out(
    delivery: SandboxDelivery,
) -> None:
    household = [("ann@example.com", "15550001111"), ("", "15550001111")]
    delivery.publish([*people(10), *household])
    delivery.upload()

    remove(delivery, leaving(emails=["ann@example.com"]))

    assert delivery.sandbox.members() == keys([*people(10), household[1]])


def test_the_same_payload_does_not_bring_back_who_was_removed(delivery: SandboxDelivery) -> None:
    delivery.publish(people(200))
    delivery.upload()
    remove(delivery, leaving(emails=[people(1)[0][0]]))
    assert delivery.upload().rows == 0
    assert len(delivery.sandbox.members()) == 199


def test_a_later_list_that_names_them_brings_them_back_as_new_people(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(200))
    delivery.upload()
    remove(delivery, leaving(emails=[people(1)[0][0]]))
    tomorrow = DAY + timedelta(days=1)
    delivery.publish(people(201), day=tomorrow)

    summary = delivery.upload(day=tomorrow)

    assert summary.rows == 2
    assert summary.people_in_audience == 201
    assert delivery.sandbox.members() == keys(people(201))


def test_the_audiences_are_found_from_our_own_record(delivery: SandboxDelivery) -> None:
    delivery.publish(people(200))
    delivery.upload()
    delivery.publish(people(100), audience=OTHER.audience)
    delivery.upload(spec=OTHER)
    person, stranger = leaving(phones=[people(1)[0][1]]), leaving(phones=["1"])

    def found(who: pl.LazyFrame, **options: str) -> dict[str, int]:
        return count_members(delivery.database, delivery.storage, who, **options)

    assert found(person) == {SPEC.audience: 1, OTHER.audience: 1}
    assert found(person, except_audience=SPEC.audience) == {OTHER.audience: 1}
    assert found(leaving(emails=[email for email, _ in people(300)])) == {
        SPEC.audience: 200,
        OTHER.audience: 100,
    }
    assert found(stranger) == {}
    remove(delivery, person)
    assert found(person) == {OTHER.audience: 1}


def test_a_membership_file_that_is_replaced_meanwhile_is_no_error(
    delivery: SandboxDelivery, tmp_path: Path
) -> None:
    for number in range(3):
        delivery.publish(people(100 + number), day=DAY + timedelta(days=number))
        delivery.upload(day=DAY + timedelta(days=number))
        if number == 1:
            fold(delivery)

    class Folding(Storage):
        """A storage on which another run folds the members just after their file was found."""

        folded = False

        def scan(self, path: str) -> pl.LazyFrame:
            if path.startswith("members/") and not self.folded:
                self.folded = True
                fold(delivery)
            return super().scan(path)

    storage = Folding(str(tmp_path / "storage"))
    everyone = leaving(emails=[email for email, _ in people(102)])
    assert count_members(delivery.database, storage, everyone) == {SPEC.audience: 102}
    assert storage.folded


def fold(delivery: SandboxDelivery) -> None:
    """Fold the members into one file, as retention does."""
    with delivery.database.transaction() as connection:
        members = membership.members_of(connection, delivery.sandbox.audience_id())
    membership.fold(delivery.database, delivery.storage, members, few=0)


def test_an_audience_without_deliveries_has_no_one_to_remove(delivery: SandboxDelivery) -> None:
    summary = remove(delivery, leaving(emails=["ann@example.com"]))
    assert (summary.removed_people, summary.people_in_audience) == (0, 0)
    assert delivery.sandbox.get("calls")["calls"] == []
