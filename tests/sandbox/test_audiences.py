"""Custom Audiences: created, listed, read, changed, deleted."""

import json

import pytest

from tests.sandbox import meta
from tests.sandbox.meta import Meta, error_of

EDGE = f"act_{meta.ACCOUNT}/customaudiences"


def test_an_audience_is_created_and_listed_as_the_seed_shows(sandbox: Meta) -> None:
    created = sandbox.create_audience("Newsletter")
    listed = sandbox.call(
        "GET",
        EDGE,
        params={
            "fields": "id,name,messenger_marketing_messages_page",
            "filtering": '[{"field":"data_source.subtype","operator":"IN","value":[1010]}]',
        },
    ).json()

    assert listed["data"] == [
        {
            "id": created,
            "name": "Newsletter",
            "messenger_marketing_messages_page": {"id": meta.PAGE, "name": f"Page {meta.PAGE}"},
        }
    ]
    assert int(created) > 2**53


def test_the_answer_to_a_creation_can_take_the_references_shape(sandbox: Meta) -> None:
    sandbox.control("POST", "variants", create_shape="top_level")

    assert sandbox.call("POST", EDGE, json=meta.creation()).json()["id"].isdigit()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": None}, 100),
        ({"description": None}, 100),
        ({"subtype": "LOOKALIKE"}, 100),
        ({"customer_file_source": None}, 100),
        ({"subscription_info": ["WHATSAPP"]}, 100),
        ({"marketing_message_channels": {}}, 100),
        ({"marketing_message_channels": {"MESSENGER": "999"}}, 200),
    ],
)
def test_a_creation_lacking_what_the_seed_requires_is_refused(
    sandbox: Meta, change: dict[str, object], code: int
) -> None:
    answer = sandbox.call("POST", EDGE, json=meta.creation() | change)

    assert error_of(answer)[0] == code


def test_names_are_not_unique_unless_requested(sandbox: Meta) -> None:
    first, second = sandbox.create_audience("Same"), sandbox.create_audience("Same")
    again = sandbox.call(
        "POST", EDGE, json=meta.creation("Same") | {"enable_fetch_or_create": True}
    )

    assert first != second
    assert again.json()["data"][0]["id"] == first


def test_a_listing_is_paged_by_cursors(sandbox: Meta) -> None:
    created = [sandbox.create_audience(f"Audience {number}") for number in range(5)]
    listed, params = [], {"limit": "2"}
    while True:
        page = sandbox.call("GET", EDGE, params=params).json()
        listed += [row["id"] for row in page["data"]]
        if "next" not in page["paging"]:
            break
        assert sandbox.http.get(page["paging"]["next"]).status_code == 200
        params["after"] = page["paging"]["cursors"]["after"]

    assert listed == created


def test_filters_and_fields_are_checked(sandbox: Meta) -> None:
    wanted = sandbox.create_audience("Spring sale")
    sandbox.create_audience("Autumn sale")

    def listed(field: str, operator: str, value: object) -> list[str]:
        filtering = json.dumps([{"field": field, "operator": operator, "value": value}])
        answer = sandbox.call("GET", EDGE, params={"filtering": filtering})
        return [row["id"] for row in answer.json()["data"]]

    assert listed("name", "CONTAIN", "spring") == [wanted]
    assert listed("name", "EQUAL", "Spring sale") == [wanted]
    assert listed("id", "IN", [wanted]) == [wanted]
    assert listed("data_source.subtype", "NOT_IN", [1010]) == []
    assert error_of(sandbox.call("GET", EDGE, params={"fields": "id,shoe_size"}))[0] == 100
    assert error_of(sandbox.call("GET", EDGE, params={"filtering": "[1]"}))[0] == 100


def test_an_audience_is_read_changed_and_deleted(sandbox: Meta) -> None:
    audience = sandbox.create_audience()
    fields = "name,operation_status,delivery_status,approximate_count_lower_bound"

    assert sandbox.call("POST", audience, json={"name": "Renamed"}).json() == {"success": True}
    node = sandbox.call("GET", audience, params={"fields": fields}).json()
    assert node["name"] == "Renamed"
    assert node["operation_status"]["code"] == 410
    assert node["delivery_status"]["code"] == 300
    assert sandbox.call("DELETE", audience).json() == {"success": True}
    assert error_of(sandbox.call("GET", audience)) == (100, 33)
    assert sandbox.call("GET", EDGE).json()["data"] == []


def test_a_flagged_audience_accepts_no_one(sandbox: Meta) -> None:
    audience = sandbox.create_audience()
    sandbox.control("POST", f"audiences/{audience}/status", code=471)

    assert error_of(sandbox.upload(audience, meta.people(1))) == (100, 1713230)
    node = sandbox.call("GET", audience, params={"fields": "operation_status"}).json()
    assert node["operation_status"]["code"] == 471
