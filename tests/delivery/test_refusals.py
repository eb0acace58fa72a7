"""A batch that Meta refuses for good holds up no one but the refused rows."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mm_pipelines.delivery import deltas, interrupted_deltas
from mm_pipelines.delivery.errors import UploadRefusedError
from mm_pipelines.delivery.refusals import (
    CallBudget,
    CallsExhaustedError,
    Part,
    RefusalSearch,
    RequestRefusedError,
)
from mm_pipelines.graph_api.errors import PermanentError
from tests.delivery.sandbox_delivery import DAY, SPEC, SandboxDelivery, hashed, keys, people
from tests.delivery.test_removals import leaving, remove

import polars as pl  # isort: skip

TOMORROW = DAY + timedelta(days=1)
CROWD = people(5000)


def refuse(delivery: SandboxDelivery, *emails: str, schema_keys: tuple[str, ...] = ()) -> None:
    """Let the sandbox refuse requests with these people or schema keys."""
    delivery.sandbox.post(
        "refusals", hashes=[hashed(email) for email in emails], schema_keys=list(schema_keys)
    )


def rejected_rows(delivery: SandboxDelivery) -> list[tuple[int, list[str]]]:
    with delivery.database.transaction() as connection:
        found = connection.execute(
            text("select row_number, reasons from mm.rejected_row order by row_number")
        )
        return [(row.row_number, row.reasons) for row in found]


def calls(delivery: SandboxDelivery) -> int:
    """How many calls to the users edge came in, the refused ones included."""
    counted = delivery.sandbox.get("calls")["calls"]
    return sum(call["calls"] for call in counted if call["path"].endswith("/users"))


@pytest.mark.parametrize("position", [0, 1, 499, 2345, 4999])
def test_a_refused_row_is_isolated_and_everyone_else_is_delivered(
    delivery: SandboxDelivery, position: int
) -> None:
    delivery.publish(CROWD)
    refuse(delivery, CROWD[position][0])

    summary = delivery.upload()

    assert delivery.sandbox.members() == keys([*CROWD[:position], *CROWD[position + 1 :]])
    assert rejected_rows(delivery) == [(position + 1, ["refused_by_meta"])]
    assert (summary.rows, summary.refused_rows, summary.people_in_audience) == (4999, 1, 4999)


def test_a_refused_row_is_not_sent_again_unchanged(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    refuse(delivery, CROWD[7][0])
    delivery.upload()
    before = calls(delivery)
    assert delivery.upload().rows == 0
    delivery.publish(people(5001), day=TOMORROW)

    assert delivery.upload(day=TOMORROW).rows == 1

    assert calls(delivery) == before + 1
    assert rejected_rows(delivery) == [(8, ["refused_by_meta"])]


def test_a_refused_row_that_was_corrected_is_delivered(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300), FN="ann")
    refuse(delivery, people(1)[0][0])
    delivery.upload()
    refuse(delivery)
    delivery.publish(people(300), FN="anne", day=TOMORROW)

    assert delivery.upload(day=TOMORROW).rows == 1
    assert delivery.sandbox.members() == keys(people(300))


def test_a_refused_key_is_named_and_the_next_upload_starts_at_once(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD, FN="ann", GEN="f", CT="paris", ZIP="75001")
    refuse(delivery, schema_keys=("GEN",))

    with pytest.raises(UploadRefusedError, match="the schema key GEN"):
        delivery.upload()

    assert calls(delivery) <= 1 + 3 + 5
    with delivery.database.transaction() as connection:
        assert deltas.open_of_key(connection, SPEC.audience) == []
        assert interrupted_deltas.find(connection, idle_for=timedelta(0)) == []
    delivery.publish(CROWD, FN="ann", CT="paris", ZIP="75001")
    delivery.upload()
    assert delivery.sandbox.members() == keys(CROWD)


def test_people_of_a_refused_upload_are_part_of_the_next_days(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300), GEN="f")
    refuse(delivery, schema_keys=("GEN",))
    with pytest.raises(UploadRefusedError):
        delivery.upload()
    delivery.publish(people(20, start=1000), day=TOMORROW)

    summary = delivery.upload(day=TOMORROW)

    assert delivery.sandbox.members() == keys([*people(300), *people(20, start=1000)])
    assert summary.people_in_audience == 320


def test_a_request_refused_whatever_its_rows_leaves_what_was_acknowledged(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post("faults", path="*/users", nth=3, times=None, error={"code": 100})
    with pytest.raises(UploadRefusedError, match=r"2,000 of 5,000 people were acknowledged"):
        delivery.upload()
    delivery.sandbox.clear_faults()

    assert delivery.upload().rows == 3000
    assert delivery.sandbox.members() == keys(CROWD)


def test_a_removal_does_not_wait_for_a_stuck_upload(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "faults", path="*/users", nth=3, times=None, error={"code": 190, "status": 401}
    )
    with pytest.raises(Exception, match="190"):
        delivery.upload()
    delivery.sandbox.clear_faults()
    # One person was delivered by the unfinished upload, another is not sent yet.
    gone = [CROWD[3], CROWD[4321]]

    summary = remove(delivery, leaving(emails=[gone[0][0]]))

    assert summary.removed_people == 1
    assert delivery.sandbox.members() == keys([*CROWD[:3], *CROWD[4:2000]])
    assert delivery.upload().rows == 3000
    assert gone[0][0] not in delivery.sandbox.members()
    assert delivery.sandbox.members() == keys([*CROWD[:3], *CROWD[4:]])


def test_a_removal_list_with_a_refused_person_removes_the_others(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload()
    delivery.sandbox.post(
        "refusals", hashes=[hashed(people(60)[50][0])], schema_keys=[], operations=["remove"]
    )

    remove(delivery, leaving(emails=[email for email, _ in people(150)]))

    assert delivery.sandbox.members() == keys([people(60)[50], *people(150, start=150)])


def test_an_unanswered_batch_leaves_out_a_person_removed_meanwhile(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post("faults", path="*/users", nth=3, times=None, reset="after")
    with pytest.raises(Exception, match="may have been"):
        delivery.upload()
    delivery.sandbox.clear_faults()
    assert keys([CROWD[2500]]) <= delivery.sandbox.members()

    remove(delivery, leaving(emails=[CROWD[2500][0], CROWD[10][0]]))
    summary = delivery.upload()

    rest = [person for person in CROWD if person not in (CROWD[2500], CROWD[10])]
    assert delivery.sandbox.members() == keys(rest)
    assert summary.left_out == 1
    assert summary.people_in_audience == len(rest)


def test_an_opted_out_person_is_left_out_of_the_rest_of_an_upload(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "faults", path="*/users", nth=3, times=None, error={"code": 190, "status": 401}
    )
    with pytest.raises(Exception, match="190"):
        delivery.upload()
    delivery.sandbox.clear_faults()
    suppressed = pl.DataFrame({"EMAIL": [hashed(CROWD[4000][0])], "PHONE": [""]})

    summary = delivery.upload(suppressed_among=lambda people, since: suppressed)

    assert delivery.sandbox.members() == keys([*CROWD[:4000], *CROWD[4001:]])
    assert summary.left_out == 1


class Meta:
    """Refuses rows by their number, and counts calls."""

    def __init__(self, refused: set[int]) -> None:
        self.refused = refused
        self.calls = 0
        self.accepted: list[int] = []
        self.rejected: list[int] = []

    def attempt(self, part: Part) -> PermanentError | None:
        self.calls += 1
        numbers = part.rows["row_number"].to_list()
        if self.refused & set(numbers):
            return PermanentError("refused", code=100)
        self.accepted += numbers
        return None

    def reject(self, part: Part) -> None:
        self.rejected += part.rows["row_number"].to_list()


def part_of(size: int) -> Part:
    return Part(0, pl.DataFrame({"EMAIL": ["x"] * size, "row_number": range(size)}))


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 300), data=st.data())
def test_every_row_is_delivered_once_or_rejected(size: int, data: st.DataObject) -> None:
    refused = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=8))
    meta = Meta(refused)
    search = RefusalSearch(meta.attempt, meta.reject, CallBudget(5000))
    try:
        search.isolate(part_of(size), PermanentError("refused", code=100))
    except RequestRefusedError:
        assert {0, size - 1, size // 2} <= refused
        assert meta.accepted == []
        return
    assert sorted(meta.accepted) == sorted(set(range(size)) - refused)
    assert sorted(meta.rejected) == sorted(refused)


@pytest.mark.parametrize("position", [0, 1, 3333, 5000, 9998, 9999])
def test_one_refused_row_in_a_full_batch_costs_at_most_thirty_calls(position: int) -> None:
    meta = Meta({position})
    search = RefusalSearch(meta.attempt, meta.reject, CallBudget())
    search.isolate(part_of(10_000), PermanentError("refused", code=100))
    assert meta.rejected == [position]
    assert meta.calls <= 30


def test_a_run_stops_isolating_after_its_calls() -> None:
    meta = Meta(set(range(1, 9999, 100)))
    search = RefusalSearch(meta.attempt, meta.reject, CallBudget())
    with pytest.raises(CallsExhaustedError):
        search.isolate(part_of(10_000), PermanentError("refused", code=100))
    assert meta.calls == 200


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_refused_row_in_a_million_costs_at_most_thirty_calls(delivery: SandboxDelivery) -> None:
    crowd = people(1_000_000)
    delivery.publish(crowd)
    refuse(delivery, crowd[567_891][0])

    summary = delivery.upload(batch_size=10_000, minimum_upload=1000)

    (audience,) = delivery.sandbox.get("audiences")
    assert audience["members"] == summary.people_in_audience == 999_999
    assert rejected_rows(delivery) == [(567_892, ["refused_by_meta"])]
    assert calls(delivery) <= 100 + 30
    assert delivery.upload(batch_size=10_000, minimum_upload=1000).rows == 0
