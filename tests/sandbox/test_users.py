"""People into and out of audiences: sessions, validation, idempotence."""

from typing import Any

import pytest

from tests.sandbox import meta
from tests.sandbox.meta import Meta, error_of, key, people, person, sha256


@pytest.fixture
def audience(sandbox: Meta) -> str:
    return sandbox.create_audience()


def test_num_received_counts_the_whole_session(sandbox: Meta, audience: str) -> None:
    first = sandbox.upload(audience, people(3), seq=1).json()
    second = sandbox.upload(audience, people(2, "q"), seq=2, last=True).json()

    assert (first["num_received"], second["num_received"]) == (3, 5)
    assert second["audience_id"] == audience
    assert second["session_id"] == "1"
    assert second["num_invalid_entries"] == 0
    assert second["invalid_entry_samples"] == {}
    assert sandbox.members(audience) == {key(row) for row in people(3) + people(2, "q")}


def test_a_batch_sent_again_gets_the_first_answer_and_counts_once(
    sandbox: Meta, audience: str
) -> None:
    first = sandbox.upload(audience, people(3))
    again = sandbox.upload(audience, people(3))
    other = sandbox.upload(audience, people(4))
    sandbox.process_now()

    assert first.json() == again.json()
    assert error_of(other)[0] == 100
    (batch,) = sandbox.control("GET", "calls")["batches"]
    assert (batch["times_received"], batch["num_rows"]) == (2, 3)


@pytest.mark.parametrize(
    "value",
    [
        "mary@example.com",
        sha256("x").upper(),
        sha256("x")[:-1],
        sha256("x") + "0",
        "g" * 64,
        sha256(""),
        " " + sha256("x")[1:],
        None,
        7,
    ],
)
def test_a_value_that_is_no_lower_case_sha256_makes_its_row_invalid(
    sandbox: Meta, audience: str, value: Any
) -> None:
    rows = [person("good"), [value, sha256("15550001")], person("fine")]
    answer = sandbox.upload(audience, rows).json()

    assert answer["num_invalid_entries"] == 1
    assert list(answer["invalid_entry_samples"]) == ["1"]
    assert sandbox.members(audience) == {key(person("good")), key(person("fine"))}


def test_a_row_needs_an_email_or_a_phone_and_plain_keys_stay_plain(
    sandbox: Meta, audience: str
) -> None:
    schema = ["EMAIL", "PHONE", "FN", "MADID", "EXTERN_ID"]
    rows = [
        [sha256("a"), "", "", "aaaa-bbbb", "customer 1"],
        ["", sha256("b"), sha256("ann"), "", ""],
        ["", "", sha256("ann"), "aaaa-bbbb", "customer 2"],
    ]
    answer = sandbox.upload(audience, rows, schema=schema).json()

    assert answer["num_invalid_entries"] == 1
    assert sandbox.members(audience) == {f"{sha256('a')}|", f"|{sha256('b')}"}


@pytest.mark.parametrize("rows", [[sha256("a"), sha256("b")], [[sha256("a")], [sha256("b")]]])
def test_a_single_key_may_come_flat(sandbox: Meta, audience: str, rows: list[Any]) -> None:
    answer = sandbox.upload(audience, rows, schema="EMAIL").json()

    assert (answer["num_received"], answer["num_invalid_entries"]) == (2, 0)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {"schema": ["EMAIL"]},
        {"schema": [], "data": [["x"]]},
        {"schema": ["SHOE_SIZE"], "data": [["43"]]},
        {"schema": ["EMAIL", "PHONE"], "data": [[sha256("a")]]},
        {"schema": ["EMAIL", "PHONE"], "data": [person("a"), "flat"]},
        {"schema": ["EMAIL"], "data": [[sha256("a")]] * 10_001},
    ],
)
def test_a_request_that_cannot_be_read_as_rows_is_refused_whole(
    sandbox: Meta, audience: str, payload: Any
) -> None:
    answer = sandbox.call("POST", f"{audience}/users", json={"payload": payload})

    assert (answer.status_code, error_of(answer)[0]) == (400, 100)
    assert sandbox.members(audience) == set()


def test_batches_of_a_session_are_sequential_of_one_schema_and_end_with_the_last(
    sandbox: Meta, audience: str
) -> None:
    assert error_of(sandbox.upload(audience, people(1), seq=2)) == (2650, 1870147)
    sandbox.upload(audience, people(1), seq=1)
    assert error_of(sandbox.upload(audience, people(1), seq=3))[0] == 100
    changed = sandbox.upload(audience, [[sha256("x")]], seq=2, schema=["EMAIL"])
    assert error_of(changed)[0] == 100
    removal = sandbox.upload(audience, people(1), seq=2, method="DELETE")
    assert error_of(removal)[0] == 100
    assert sandbox.upload(audience, people(1), seq=2, last=True).status_code == 200
    assert error_of(sandbox.upload(audience, people(1), seq=3)) == (2650, 1870159)


def test_a_session_ends_ninety_minutes_after_its_first_batch(sandbox: Meta, audience: str) -> None:
    sandbox.upload(audience, people(1), seq=1)
    sandbox.control("POST", "clock", advance_seconds=89 * 60)
    assert sandbox.upload(audience, people(1), seq=2).status_code == 200
    sandbox.control("POST", "clock", advance_seconds=2 * 60)
    assert error_of(sandbox.upload(audience, people(1), seq=3)) == (2650, 1870158)


def test_an_upload_without_a_session_is_accepted_as_the_seed_shows_it(
    sandbox: Meta, audience: str
) -> None:
    body = {"payload": {"schema": meta.SCHEMA, "data": people(3)}}
    first = sandbox.call("POST", f"{audience}/users", json=body).json()
    second = sandbox.call("POST", f"{audience}/users", json=body).json()

    assert first["num_received"] == second["num_received"] == 3
    assert first["session_id"] != second["session_id"]


@pytest.mark.parametrize("method", ["DELETE", "POST with method=DELETE"])
def test_removal_takes_people_out_of_one_audience(
    sandbox: Meta, audience: str, method: str
) -> None:
    other = sandbox.create_audience("Other")
    sandbox.upload(audience, people(5), session=1)
    sandbox.upload(other, people(5), session=2)
    body = {
        "payload": {"schema": meta.SCHEMA, "data": people(2)},
        "session": {"session_id": 3, "batch_seq": 1, "last_batch_flag": True},
    }
    if method == "DELETE":
        answer = sandbox.call("DELETE", f"{audience}/users", json=body)
    else:
        answer = sandbox.call("POST", f"{audience}/users", json={**body, "method": "DELETE"})

    assert answer.json()["num_received"] == 2
    assert sandbox.members(audience) == {key(row) for row in people(5)[2:]}
    assert len(sandbox.members(other)) == 5


def test_a_person_is_known_by_the_email_or_where_it_lacks_by_the_phone(
    sandbox: Meta, audience: str
) -> None:
    ann, bob = person("ann"), [sha256("bob@example.com"), person("ann")[1]]
    sandbox.upload(audience, [ann, bob, ["", person("carl")[1]]])

    # Bob shares Ann's phone, but is not she; Carl is known by his phone alone.
    rows = [ann, person("carl")]
    sandbox.upload(audience, rows, session=2, method="DELETE")
    assert sandbox.members(audience) == {key(bob)}
    sandbox.upload(audience, [["", bob[1]]], session=3, method="DELETE")
    assert sandbox.members(audience) == set()


def test_people_can_be_removed_from_every_audience_of_the_account(
    sandbox: Meta, audience: str
) -> None:
    other = sandbox.create_audience("Other")
    sandbox.upload(audience, people(3), session=1)
    sandbox.upload(other, people(3), session=2)
    body = {"payload": {"schema": meta.SCHEMA, "data": people(1)}}
    answer = sandbox.call("DELETE", f"act_{meta.ACCOUNT}/usersofanyaudience", json=body)

    assert answer.json()["num_received"] == 1
    assert len(sandbox.members(audience)) == len(sandbox.members(other)) == 2


def test_a_replacement_becomes_the_whole_membership_with_its_last_batch(
    sandbox: Meta, audience: str
) -> None:
    sandbox.upload(audience, people(4), session=1, last=True)
    sandbox.process_now()
    sandbox.upload(audience, people(6)[3:], session=2, edge="usersreplace")
    assert sandbox.members(audience) == {key(row) for row in people(4)}
    busy = sandbox.upload(audience, people(1), session=3)
    assert error_of(busy) == (2650, 1870145)
    sandbox.upload(audience, people(8)[6:], session=2, seq=2, last=True, edge="usersreplace")
    sandbox.process_now()

    assert sandbox.members(audience) == {key(row) for row in people(8)[3:]}
    node = sandbox.call("GET", audience, params={"fields": "operation_status"}).json()
    assert node["operation_status"]["code"] == 200


def test_a_failed_subscription_inside_a_200_applies_nothing(sandbox: Meta, audience: str) -> None:
    sandbox.control("POST", "faults", path="*/users", variants={"messenger_error": True})
    hidden = sandbox.upload(audience, people(3))
    again = sandbox.upload(audience, people(3))

    assert hidden.status_code == 200
    assert hidden.json()["subscription_info"]["messenger"]["error"]["code"] == 2
    assert "error" not in again.json()["subscription_info"]["messenger"]
    assert sandbox.members(audience) == {key(row) for row in people(3)}


@pytest.mark.parametrize(
    ("shape", "samples"),
    [("map", {"0": '["bad"]'}), ("array", ['["bad"]']), ("empty_map", {}), ("empty_array", [])],
)
def test_invalid_samples_come_in_every_documented_shape(
    sandbox: Meta, audience: str, shape: str, samples: object
) -> None:
    sandbox.control("POST", "variants", invalid_samples=shape)
    answer = sandbox.upload(audience, [["bad"], [sha256("x")]], schema=["EMAIL"]).json()

    assert answer["num_invalid_entries"] == 1
    assert answer["invalid_entry_samples"] == samples


def test_sessions_can_be_looked_at_instead_of_waiting_for_a_webhook(
    sandbox: Meta, audience: str
) -> None:
    sandbox.upload(audience, people(200), session=7, last=True)
    (before,) = sandbox.call("GET", f"{audience}/sessions").json()["data"]
    sandbox.process_now()
    (after,) = sandbox.call("GET", f"{audience}/sessions").json()["data"]

    assert (before["stage"], after["stage"]) == ("processing", "finished")
    assert after["session_id"] == "7"
    assert after["num_received"] == "200"
    assert 80 < int(after["num_matched"]) < 160
