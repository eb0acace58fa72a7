"""Content that Meta refuses, batches it loses, and subscribers it does not accept."""

import pytest

from tests.sandbox.meta import Meta, error_of, key, people, person

TOO_SMALL = "Audience Size too low: You cannot remove users from this audience"


@pytest.fixture
def audience(sandbox: Meta) -> str:
    return sandbox.create_audience()


def refuse_rows(sandbox: Meta, *names: str, **rule: object) -> None:
    sandbox.control("POST", "refusals", hashes=[person(name)[0] for name in names], **rule)


def test_a_refused_row_makes_every_batch_that_contains_it_fail(
    sandbox: Meta, audience: str
) -> None:
    refuse_rows(sandbox, "bad")
    whole = sandbox.upload(audience, [*people(3), person("bad")], session=1)
    single = sandbox.upload(audience, [person("bad")], session=2)
    others = sandbox.upload(audience, people(3), session=3)

    assert error_of(whole) == error_of(single) == (100, None)
    assert others.status_code == 200
    assert sandbox.members(audience) == {key(row) for row in people(3)}


def test_a_row_is_refused_by_its_phone_too_and_until_the_rule_is_changed(
    sandbox: Meta, audience: str
) -> None:
    sandbox.control("POST", "refusals", hashes=[person("bad")[1]])
    assert sandbox.upload(audience, [person("bad")]).status_code == 400
    assert sandbox.control("POST", "refusals")["hashes"] == []
    assert sandbox.upload(audience, [person("bad")]).status_code == 200


def test_removals_are_refused_only_where_the_rule_names_them(sandbox: Meta, audience: str) -> None:
    sandbox.upload(audience, [person("bad"), *people(2)])
    refuse_rows(sandbox, "bad")
    removal = sandbox.upload(audience, [person("bad")], session=2, method="DELETE")
    assert removal.status_code == 200
    refuse_rows(sandbox, "bad", operations=["remove"])
    refused = sandbox.upload(audience, [person("bad")], session=3, method="DELETE")
    assert error_of(refused)[0] == 100


def test_a_refused_schema_key_fails_every_request_that_has_it(sandbox: Meta, audience: str) -> None:
    sandbox.control("POST", "refusals", schema_keys=["GEN"])
    refused = sandbox.upload(audience, [[*person("a"), ""]], schema=["EMAIL", "PHONE", "GEN"])

    assert error_of(refused)[0] == 100
    assert "GEN" in refused.json()["error"]["message"]
    assert sandbox.upload(audience, [person("a")]).status_code == 200


def test_a_removal_that_would_leave_a_small_audience_is_refused_until_the_audience_grows(
    sandbox: Meta, audience: str
) -> None:
    sandbox.upload(audience, people(10), session=1)
    sandbox.control("POST", f"audiences/{audience}/small", minimum_members=10, code=2650)
    refused = sandbox.upload(audience, people(1), session=2, method="DELETE")
    assert error_of(refused)[0] == 2650
    assert refused.json()["error"]["message"].startswith(TOO_SMALL)

    sandbox.upload(audience, people(5, "more"), session=3)
    assert sandbox.upload(audience, people(1), session=2, method="DELETE").status_code == 200
    assert len(sandbox.members(audience)) == 14


def test_an_audience_deleted_at_meta_answers_as_an_unknown_object(
    sandbox: Meta, audience: str
) -> None:
    sandbox.control("POST", f"audiences/{audience}/delete")

    assert error_of(sandbox.upload(audience, people(1))) == (100, 33)
    assert error_of(sandbox.call("GET", audience)) == (100, 33)
    unknown = sandbox.http.post(f"{sandbox.url}/_sandbox/audiences/404/delete")
    assert unknown.status_code == 404


def test_a_lost_batch_is_missing_from_the_sessions_count_and_can_be_sent_again(
    sandbox: Meta, audience: str
) -> None:
    lose = {"path": "*/users", "nth": 3, "variants": {"batch_lost": True}}
    sandbox.control("POST", "faults", **lose)
    received = [
        sandbox.upload(audience, people(2, f"{seq}-"), seq=seq).json()["num_received"]
        for seq in (1, 2, 3, 4)
    ]
    assert received == [2, 4, 4, 6]
    assert len(sandbox.members(audience)) == 6

    again = sandbox.upload(audience, people(2, "3-"), seq=3)
    assert again.json()["num_received"] == 8
    assert len(sandbox.members(audience)) == 8


@pytest.mark.parametrize(
    ("subscribers", "received", "invalid"), [("none", 0, 0), ("invalid", 3, 3)]
)
def test_rows_can_be_received_without_a_subscriber(
    sandbox: Meta, audience: str, subscribers: str, received: int, invalid: int
) -> None:
    sandbox.control("POST", "variants", subscribers=subscribers)
    document = sandbox.upload(audience, people(3)).json()
    messenger = document["subscription_info"]["messenger"]

    assert (document["num_received"], document["num_invalid_entries"]) == (3, 0)
    assert messenger["num_subscribers_received"] == received
    assert messenger["num_subscribers_invalid_entries"] == invalid
    assert len(messenger["invalid_subscribers_entry_samples"]) == invalid


def test_rows_without_subscribers_yield_no_token(sandbox: Meta, audience: str) -> None:
    sandbox.control("POST", "variants", subscribers="none")
    sandbox.upload(audience, people(400), last=True)
    sandbox.process_now()

    assert len(sandbox.members(audience)) == 400
    assert sandbox.tokens(custom_audience_ids=audience) == []
