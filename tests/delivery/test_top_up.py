"""Small uploads are filled up with members, so that small days still earn tokens."""

import random
from collections.abc import Iterator
from datetime import timedelta

import httpx
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.delivery.preview import preview
from mm_pipelines.delivery.upload import UploadSummary
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.sandbox import Settings
from mm_pipelines.sandbox.matching import matches
from mm_pipelines.sandbox.members import identifier
from mm_pipelines.sandbox.server import server
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from tests.delivery.sandbox_delivery import (
    DAY,
    SPEC,
    Sandbox,
    SandboxDelivery,
    hashed,
    keys,
    people,
)
from tests.delivery.test_membership import standing
from tests.delivery.test_refusals import refuse, rejected_rows
from tests.delivery.test_removals import leaving, remove
from tests.servers import serving

TOMORROW = DAY + timedelta(days=1)
MATCHING = Settings(match_delay_seconds=3600, optin_people_per_page=0, match_rate=0.4)


def upload(delivery: SandboxDelivery, minimum: int = 1000, **more: object) -> UploadSummary:
    return delivery.upload(minimum_upload=minimum, **more)  # type: ignore[arg-type]


def sizes(delivery: SandboxDelivery) -> list[int]:
    """The rows of each session at Meta, in the order of their first batches."""
    rows: dict[str, int] = {}
    for batch in delivery.sandbox.batches():
        rows[batch["session_id"]] = rows.get(batch["session_id"], 0) + batch["num_rows"]
    return list(rows.values())


def test_a_small_day_is_filled_up_to_the_minimum_with_members(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    upload(delivery)
    delivery.publish(people(20, start=1490), day=TOMORROW)

    summary = upload(delivery, day=TOMORROW)

    assert sizes(delivery) == [1500, 1000]
    assert (summary.rows, summary.new_people, summary.members_sent_again) == (1000, 10, 990)
    assert summary.top_up == (
        "10 new people are fewer than minimum_upload (1,000), so 990 members were sent again with "
        "them"
    )
    assert summary.people_in_audience == 1510
    assert delivery.sandbox.members() == standing(delivery) == keys(people(1510))


def test_a_day_without_a_new_person_sends_nothing(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    upload(delivery)
    delivery.publish(people(1400), day=TOMORROW)
    assert upload(delivery, day=TOMORROW).rows == 0


def test_a_minimum_of_zero_sends_only_new_people(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    upload(delivery, minimum=0)
    delivery.publish(people(10, start=1500), day=TOMORROW)
    assert upload(delivery, minimum=0, day=TOMORROW).rows == 10


def test_all_members_are_sent_if_they_are_too_few(delivery: SandboxDelivery) -> None:
    delivery.publish(people(60))
    first = upload(delivery)
    delivery.publish(people(60, start=60), day=TOMORROW)

    second = upload(delivery, day=TOMORROW)

    assert sizes(delivery) == [60, 120]
    for summary in (first, second):
        assert summary.top_up is not None
        assert summary.top_up.endswith("The audience has no more people that can be sent")


def test_an_opted_out_member_is_never_sent_again(delivery: SandboxDelivery) -> None:
    delivery.publish(people(100))
    upload(delivery)
    delivery.publish(people(1, start=100), day=TOMORROW)
    opted_out = pl.DataFrame({"EMAIL": [hashed(people(1)[0][0])], "PHONE": [""]})

    summary = upload(delivery, day=TOMORROW, suppressed_among=lambda people, since: opted_out)

    assert summary.rows == 100
    assert summary.members_sent_again == 99


def test_a_member_who_was_sent_twice_is_removed_once_for_all(delivery: SandboxDelivery) -> None:
    delivery.publish(people(200))
    upload(delivery)
    delivery.publish(people(1, start=200), day=TOMORROW)
    upload(delivery, day=TOMORROW)

    summary = remove(delivery, leaving(emails=[people(1)[0][0]]))

    assert (summary.removed_people, summary.people_in_audience) == (1, 200)
    assert delivery.sandbox.members() == standing(delivery) == keys(people(200, start=1))
    assert remove(delivery, leaving(emails=[people(1)[0][0]])).removed_people == 0


def test_a_mirrored_audience_is_filled_up_from_the_days_own_list_after_its_removals(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(1200), FN="ann")
    upload(delivery, mode="mirror")
    delivery.publish(people(1200, start=10), day=TOMORROW, FN="ann")

    summary = upload(delivery, mode="mirror", day=TOMORROW)

    assert (summary.new_people, summary.removed_people) == (10, 10)
    assert summary.members_sent_again == 990
    assert delivery.sandbox.members() == standing(delivery) == keys(people(1200, start=10))


def test_members_with_an_identifier_that_the_list_lacks_are_not_sent_again(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish([*people(50), *[(f"only{n}@example.com", "") for n in range(50)]])
    upload(delivery)
    delivery.publish_columns({"EMAIL": [hashed("new@example.com")]}, day=TOMORROW)

    summary = upload(delivery, day=TOMORROW)

    assert summary.members_sent_again == 50
    assert summary.people_in_audience == len(delivery.sandbox.members()) == 101


def test_small_sessions_of_a_refused_batch_are_sent_again_together(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(5000))
    refuse(delivery, people(5000)[2345][0])

    summary = upload(delivery)

    everyone = [*people(2345), *people(2654, start=2346)]
    assert delivery.sandbox.members() == standing(delivery) == keys(everyone)
    assert rejected_rows(delivery) == [(2346, ["refused_by_meta"])]
    assert (summary.new_people, summary.people_in_audience) == (5000, 4999)
    # The last session has every row that had gone out in a small one.
    assert sizes(delivery)[-1] == 1000
    assert summary.members_sent_again == 1000
    assert upload(delivery).rows == 0


def test_the_rest_of_a_killed_upload_is_filled_up_too(delivery: SandboxDelivery) -> None:
    delivery.publish(people(2300))
    delivery.sandbox.post(
        "faults", path="*/users", nth=3, times=None, error={"code": 190, "status": 401}
    )
    with pytest.raises(TokenError):
        upload(delivery)
    delivery.sandbox.clear_faults()
    with delivery.database.transaction() as connection:
        connection.execute(text("update mm.upload_session set opened_at = now() - interval '3h'"))

    upload(delivery)

    # The rest went out alone, then again with members.
    assert sizes(delivery) == [2000, 300, 1000]
    assert delivery.sandbox.members() == standing(delivery) == keys(people(2300))


def test_sessions_side_by_side_are_never_smaller_than_the_minimum(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(2500))
    upload(delivery, batch_size=100, side_by_side=5)
    assert sorted(sizes(delivery)) == [1200, 1300]


def test_a_preview_counts_the_members_to_send_again(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    upload(delivery)
    delivery.publish(people(301), day=TOMORROW)
    planned = preview(
        delivery.database, delivery.storage, UploadPlan(SPEC, TOMORROW), minimum_upload=1000
    )
    assert (planned.new_people, planned.members_sent_again) == (1, 300)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_any_days_our_record_is_what_meta_has(delivery: SandboxDelivery, seed: int) -> None:
    chance = random.Random(seed)
    mode = chance.choice(["append", "mirror"])
    expected: set[str] = set()
    refused: set[str] = set()
    for number in range(6):
        day = DAY + timedelta(days=number)
        listed = people(chance.randrange(1, 400), start=chance.randrange(200))
        delivery.publish(listed, day=day)
        strangers = [person for person in listed if not keys([person]) <= expected]
        if chance.random() < 0.5 and strangers:
            unlucky = chance.choice(strangers)
            refuse(delivery, unlucky[0])
            refused |= keys([unlucky])

        summary = upload(
            delivery, minimum=300, day=day, mode=mode, accept_removals=True, batch_size=100
        )

        # Later lists have the refused rows unchanged, so they are not sent again.
        accepted = keys(listed) - refused
        expected = accepted if mode == "mirror" else expected | accepted
        refuse(delivery)
        assert delivery.sandbox.members() == standing(delivery) == expected
        assert summary.people_in_audience == len(expected)
        gone = chance.sample(listed, 1)
        remove(delivery, leaving(emails=[gone[0][0]]))
        expected -= keys(gone)
        assert delivery.sandbox.members() == standing(delivery) == expected


@pytest.fixture(scope="module")
def matching_server() -> Iterator[str]:
    with serving(server("127.0.0.1", 0, MATCHING)) as url:
        yield url


@pytest.fixture
def matching(database: Database, storage: Storage, matching_server: str) -> SandboxDelivery:
    """A sandbox in which 40 % of the people match."""
    sandbox = Sandbox(matching_server)
    sandbox.post("reset")
    return SandboxDelivery(database, storage, sandbox)


@pytest.mark.parametrize("reading", ["audience", "session", "discard"])
def test_sixty_new_people_a_day_yield_every_matched_persons_token(
    matching: SandboxDelivery, reading: str
) -> None:
    matching.sandbox.post("variants", match_threshold=reading)
    for number in range(30):
        day = DAY + timedelta(days=number)
        matching.publish(people(60, start=60 * number), day=day)
        upload(matching, day=day)
        matching.sandbox.post("settle")

    expected = sum(
        matches(MATCHING.seed, MATCHING.match_rate, identifier(bytes.fromhex(hashed(email))))
        for email, _ in people(1800)
    )
    assert len(tokens(matching)) == expected
    assert matching.sandbox.members() == keys(people(1800))


def test_without_a_top_up_small_days_earn_nothing_if_the_session_counts(
    matching: SandboxDelivery,
) -> None:
    matching.sandbox.post("variants", match_threshold="session")
    for number in range(3):
        day = DAY + timedelta(days=number)
        matching.publish(people(60, start=60 * number), day=day)
        upload(matching, minimum=0, day=day)
        matching.sandbox.post("settle")
    assert tokens(matching) == set()


@pytest.mark.parametrize("reading", ["session", "discard"])
def test_people_of_small_sessions_of_a_refused_batch_earn_their_tokens(
    matching: SandboxDelivery, reading: str
) -> None:
    matching.sandbox.post("variants", match_threshold=reading)
    matching.publish(people(2000))
    refuse(matching, people(2000)[1234][0])

    upload(matching)
    matching.sandbox.post("settle")

    expected = sum(
        matches(MATCHING.seed, MATCHING.match_rate, identifier(bytes.fromhex(hashed(email))))
        for number, (email, _) in enumerate(people(2000))
        if number != 1234
    )
    assert len(tokens(matching)) == expected


def tokens(delivery: SandboxDelivery) -> set[str]:
    """The Page's tokens that Meta lists."""
    answer = httpx.get(
        f"{delivery.sandbox.url}/v26.0/{SPEC.page_id}/notification_message_tokens",
        params={"limit": 1000, "access_token": "any"},
    ).raise_for_status()
    listed = answer.json()
    assert "next" not in listed.get("paging", {})
    return {row["notification_messages_token"] for row in listed["data"]}
