"""From bodies to events: every envelope that Meta is known to send."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.webhooks.envelope import NotAnEventError, parse
from mm_pipelines.webhooks.webhook_event import UNREADABLE, WebhookEvent
from tests.webhooks.meta import (
    AD_ACCOUNT_ID,
    CUSTOM_AUDIENCE_ID,
    PAGE_ID,
    UPLOAD_STATUS,
    body,
    changes,
    item,
    messaging,
    upload_status,
)

# The sample of Meta's page on growing an audience.
BARE = {"field": UPLOAD_STATUS, **upload_status()}


def only(document: Any) -> WebhookEvent:
    (event,) = parse(body(document))
    return event


def payload(document: Any) -> Any:
    return json.loads(only(document).payload)


@pytest.mark.parametrize(
    "document",
    [
        changes(upload_status()),
        changes(BARE),
        changes(upload_status(), object_="ad_account"),
        BARE,
        {"field": UPLOAD_STATUS, "value": upload_status()},
        {"sample": {}, "field": UPLOAD_STATUS, "value": upload_status()},
    ],
    ids=["page", "field repeated", "ad account", "bare", "change", "dashboard sample"],
)
def test_an_upload_status_is_known_in_every_envelope(document: Any) -> None:
    event = only(document)
    assert event.field == UPLOAD_STATUS
    assert event.page_id == str(PAGE_ID)
    assert event.custom_audience_id == str(CUSTOM_AUDIENCE_ID)
    assert json.loads(event.payload)["num_rows"] == 1000


def test_ids_beyond_2_to_53_are_kept_exactly_as_number_or_text() -> None:
    large = 2**63 + 1
    for written in (large, str(large)):
        event = only(changes(upload_status(custom_audience_id=written)))
        assert event.custom_audience_id == str(large)
        assert str(large) in event.payload


def test_several_entries_and_both_forms_in_one_body_keep_their_order() -> None:
    document = changes(upload_status(1), upload_status(2))
    document["entry"] += changes(upload_status(3))["entry"]
    document["entry"] += messaging(item(optin={"type": "notification_messages"}))["entry"]
    assert [event.field for event in parse(body(document))] == [UPLOAD_STATUS] * 3 + [
        "messaging_optins"
    ]


def test_changed_fields_without_values_are_events_without_value() -> None:
    entry = {"id": str(PAGE_ID), "time": 1, "changed_fields": ["name", UPLOAD_STATUS]}
    events = parse(body({"object": "page", "entry": [entry]}))
    assert [(event.field, event.payload) for event in events] == [
        ("name", "{}"),
        (UPLOAD_STATUS, "{}"),
    ]


def test_an_unknown_field_is_stored_under_its_name() -> None:
    document = changes({"a": [1, {"b": None}]}, field="brand_new", object_="whatsapp")
    assert (only(document).field, payload(document)) == ("brand_new", {"a": [1, {"b": None}]})
    assert only(messaging(item(brand_new={"a": 1}))).field == "brand_new"


@pytest.mark.parametrize("value", ["text", 7, None, [1, 2], True])
def test_a_value_of_any_kind_is_stored(value: Any) -> None:
    assert payload(changes(value, field="some_field")) == value


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"optin": {}}, "messaging_optins"),
        ({"message": {"mid": "m"}}, "messages"),
        ({"message": {"mid": "m", "is_echo": True}}, "message_echoes"),
        ({"postback": {}}, "messaging_postbacks"),
        ({"read": {"watermark": 1}}, "message_reads"),
        ({"delivery": {}}, "message_deliveries"),
    ],
)
def test_a_messaging_item_has_the_field_that_is_subscribed_to(
    what: dict[str, Any], field: str
) -> None:
    event = only(messaging(item(**what)))
    assert (event.field, event.page_id) == (field, str(PAGE_ID))


def test_the_seeds_bare_optin_and_its_other_spelling_are_opt_ins() -> None:
    bare = only(item(optin={"type": "notification_messages"}))
    assert (bare.field, bare.page_id) == ("messaging_optins", str(PAGE_ID))
    assert only(changes({}, field="messaging_optin")).field == "messaging_optins"


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (1763000000, datetime(2025, 11, 13, 2, 13, 20, tzinfo=UTC)),
        ("1763000000", datetime(2025, 11, 13, 2, 13, 20, tzinfo=UTC)),
        (1763000000123, datetime(2025, 11, 13, 2, 13, 20, 123000, tzinfo=UTC)),
        (10**11 - 1, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (10**11, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (10**30, None),
        (-5, None),
        (True, None),
    ],
)
def test_timestamps_are_of_either_unit(timestamp: Any, moment: datetime | None) -> None:
    document = changes(upload_status(timestamp=timestamp))
    del document["entry"][0]["time"]
    assert only(document).event_time == moment


def test_without_a_timestamp_of_its_own_an_event_has_the_entrys() -> None:
    document = changes({"a": 1}, field="some_field", time=1763000000)
    assert only(document).event_time == datetime(2025, 11, 13, 2, 13, 20, tzinfo=UTC)


def test_the_same_value_through_the_other_object_is_the_same_event() -> None:
    page = only(changes(upload_status(), time=1763000000))
    legacy = only(
        changes(
            {**BARE, "ad_account_id": AD_ACCOUNT_ID + 1},
            time=1763000000,
            object_="ad_account",
        )
    )
    assert page.dedupe_key == legacy.dedupe_key


def test_the_order_of_keys_and_the_unit_of_time_make_no_other_event() -> None:
    value = upload_status()
    turned = dict(reversed(value.items()))
    assert (
        only(changes(value, time=1763000000)).dedupe_key
        == only(changes(turned, time=1763000000000)).dedupe_key
    )


def test_equal_values_with_other_entry_times_are_two_events_of_one_value() -> None:
    first, second = (only(changes(upload_status(), time=time)) for time in (1763000000, 1763000001))
    assert first.dedupe_key != second.dedupe_key
    assert first.value_key == second.value_key


def test_other_fields_or_values_are_other_events() -> None:
    documents = [
        changes({"a": 1}, field="x"),
        changes({"a": 1}, field="y"),
        changes({"a": 2}, field="x"),
        changes({"a": "1"}, field="x"),
    ]
    assert len({only(document).dedupe_key for document in documents}) == 4


@pytest.mark.parametrize(
    "what",
    [
        {"message": {"mid": "m", "text": "SECRET", "attachments": [{"url": "SECRET"}]}},
        {"message": {"is_echo": True, "text": "SECRET"}},
        {"postback": {"title": "SECRET", "payload": "SECRET"}},
        {"message_edit": {"text": "SECRET"}},
        {"referral": {"ref": "SECRET"}},
        {"brand_new": {"deep": [{"text": "SECRET", "message": "SECRET"}]}},
    ],
)
def test_what_people_write_is_not_kept(what: dict[str, Any]) -> None:
    written = [messaging(item(**what))]
    written.append(changes(item(**what), field=only(written[0]).field))
    for document in written:
        event = only(document)
        assert "SECRET" not in event.payload
        assert json.loads(event.payload)["sender"] == {"id": "4815162342"}


def test_of_a_message_the_time_zone_is_kept_where_it_is_known() -> None:
    told = item(message={"text": "SECRET"}, timezone="Europe/Berlin")
    told["sender"] |= {"timezone": -5, "name": "SECRET"}
    kept = payload(messaging(told))
    assert kept["timezone"] == "Europe/Berlin"
    assert kept["sender"] == {"id": "4815162342", "timezone": -5}


def test_an_opt_in_is_kept_whole() -> None:
    optin = {"notification_messages_token": "t", "title": "News", "payload": "p"}
    assert payload(messaging(item(optin=optin)))["optin"] == optin


def test_an_event_does_not_show_its_contents() -> None:
    event = only(messaging(item(optin={"notification_messages_token": "SECRET"})))
    assert "SECRET" not in repr(event)


@pytest.mark.parametrize(
    "odd",
    [
        {"value": {"message": {"text": "SECRET words"}}},
        {"field": " ", "value": "SECRET words"},
        {"field": 7, "value": {"SECRET words": 1}},
        "SECRET words",
        None,
    ],
)
def test_one_odd_item_rejects_none_of_the_others(odd: Any) -> None:
    document = changes(*({"n": number} for number in range(999)), field="some_field")
    document["entry"][0]["changes"].insert(500, odd)
    events = parse(body(document))
    (unreadable,) = [event for event in events if event.field == UNREADABLE]
    assert len(events) == 1000
    assert "SECRET" not in unreadable.payload
    assert unreadable.page_id == str(PAGE_ID)


@pytest.mark.parametrize("key", ["changes", "messaging", "changed_fields"])
def test_a_list_that_is_null_rejects_no_other_event(key: str) -> None:
    document = changes({"n": 1}, field="some_field")
    document["entry"].append({"id": str(PAGE_ID), "time": 1, key: None})
    document["entry"].append("no entry")
    assert [event.field for event in parse(body(document))] == [
        "some_field",
        UNREADABLE,
        UNREADABLE,
    ]


def test_a_body_of_odd_items_alone_is_refused() -> None:
    with pytest.raises(NotAnEventError, match="no readable event"):
        parse(body({"object": "page", "entry": [{"id": "1", "changes": None}]}))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_events_or_refused(document: Any) -> None:
    try:
        events = parse(body(document))
    except NotAnEventError:
        return
    assert events


@given(json_values)
def test_whatever_a_value_holds_it_becomes_text_that_postgresql_can_keep(value: Any) -> None:
    event = only(changes(value, field="some_field"))
    assert event.payload.isascii()
    assert "\\u0000" not in event.payload
    assert only(changes(value, field="some_field")) == event
