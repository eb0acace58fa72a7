"""sender_file_sensor requests a Page's file after every change of its sendable tokens."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from mm_pipelines.orchestration.priorities import OPT_OUTS, PRIORITY_TAG, SENDER_FILES
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors import sender_file_sensor
from mm_pipelines.storage import Storage
from mm_pipelines.tokens import sender_file, webhook_tokens
from mm_pipelines.tokens.export import FileFormat, Manifest, publish_sendable
from mm_pipelines.warehouse.database import Database

PAGE_ID = "134141414124123"


class Surroundings:
    """A Page with published tokens, and the sensor."""

    def __init__(self, database: Database, storage: Storage, instance: dg.DagsterInstance) -> None:
        self.database = database
        self.storage = storage
        self._instance = instance
        self._cursor: str | None = None

    def execute(self, statement: str, **values: object) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def publishes(self) -> Manifest:
        return publish_sendable(self.database, self.storage, "acme", PAGE_ID, FileFormat.CSV)

    def stops(self, contact: str) -> None:
        """A person opts out, as the receiver stores it."""
        self.execute(
            "insert into mm.messenger_consent (page_id, contact_kind, contact, stopped_at) "
            "values (:page_id, 'psid', :contact, now()) "
            "on conflict (page_id, contact_kind, contact) do update set stopped_at = now()",
            page_id=PAGE_ID,
            contact=contact,
        )

    def tick(self) -> dg.SensorResult:
        resources = {"mm_database": DatabaseResource(url=self.database.url)}
        with dg.build_sensor_context(
            instance=self._instance, cursor=self._cursor, resources=resources
        ) as context:
            result = sender_file_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        return result

    def requested(self) -> list[str | None]:
        return [request.partition_key for request in self.tick().run_requests or []]

    def priorities(self) -> list[int]:
        return [int(request.tags[PRIORITY_TAG]) for request in self.tick().run_requests or []]


@pytest.fixture
def surroundings(database: Database, tmp_path: Path) -> Iterator[Surroundings]:
    with dg.DagsterInstance.ephemeral() as instance:
        surroundings = Surroundings(database, Storage(str(tmp_path)), instance)
        surroundings.execute(
            "insert into mm.subscription_token (page_id, token, recipient_id, source, "
            "first_seen_at, last_seen_at) "
            "select :page_id, 't' || n, 'p' || n, 'opt_in', now(), now() "
            "from generate_series(1, 3) as n",
            page_id=PAGE_ID,
        )
        surroundings.publishes()
        yield surroundings


def test_a_file_without_later_changes_is_not_requested(surroundings: Surroundings) -> None:
    assert surroundings.requested() == []


def test_a_stop_requests_the_file_until_it_is_published(surroundings: Surroundings) -> None:
    surroundings.stops("p1")
    assert surroundings.requested() == ["acme"]
    assert surroundings.publishes().rows == 2
    assert surroundings.requested() == []
    # The same person again: the row is updated.
    surroundings.stops("p1")
    assert surroundings.requested() == ["acme"]


def test_a_file_that_lacks_an_opt_out_has_the_priority_of_opt_outs(
    surroundings: Surroundings,
) -> None:
    surroundings.execute("update mm.sender_file set valid_until = now()")
    assert surroundings.priorities() == [SENDER_FILES]
    surroundings.stops("p1")
    assert surroundings.priorities() == [OPT_OUTS]


def test_an_unsubscribe_request_by_token_requests_the_file(surroundings: Surroundings) -> None:
    surroundings.execute(
        "insert into mm.unsubscribe_request (page_id, subscriber_token) values (:page_id, 't2')",
        page_id=PAGE_ID,
    )
    assert surroundings.requested() == ["acme"]
    assert surroundings.publishes().rows == 2


def test_a_token_of_an_opt_in_requests_the_file(surroundings: Surroundings) -> None:
    granted = webhook_tokens.GrantedToken(
        "t4", "p4", None, None, None, None, None, datetime.now(UTC)
    )
    with surroundings.database.transaction() as connection:
        webhook_tokens.merge(connection, PAGE_ID, [granted])
    assert surroundings.requested() == ["acme"]
    assert surroundings.publishes().rows == 4


def test_a_change_while_the_file_is_read_stays_pending(surroundings: Surroundings) -> None:
    surroundings.stops("p1")
    with surroundings.database.transaction() as connection:
        snapshot = sender_file.begin(connection, PAGE_ID)
    surroundings.stops("p2")
    with surroundings.database.transaction() as connection:
        sender_file.record(connection, snapshot, path="x", rows=2)
    assert surroundings.requested() == ["acme"]


def test_a_file_is_requested_before_it_expires(surroundings: Surroundings) -> None:
    surroundings.execute("update mm.sender_file set valid_until = now() + interval '61 min'")
    assert surroundings.requested() == []
    surroundings.execute("update mm.sender_file set valid_until = now() + interval '59 min'")
    assert surroundings.requested() == ["acme"]


def test_the_manifest_says_until_when_to_use_the_file(surroundings: Surroundings) -> None:
    manifest = surroundings.publishes()
    latest = Path(surroundings.storage.url("sendable_tokens/acme/latest.json"))
    written = json.loads(latest.read_text())
    assert written["valid_until"] == manifest.valid_until
    length = datetime.fromisoformat(manifest.valid_until) - datetime.fromisoformat(
        manifest.written_at
    )
    assert length == sender_file.VALID_FOR


def test_the_check_fails_while_a_file_lacks_an_opt_out_for_minutes(
    surroundings: Surroundings,
) -> None:
    surroundings.stops("p1")
    assert surroundings.tick().asset_events == []
    surroundings.execute("update mm.sendable_change set changed_at = now() - interval '6 min'")
    (failed,) = surroundings.tick().asset_events
    assert isinstance(failed, dg.AssetCheckEvaluation)
    assert not failed.passed
    assert "acme (since" in (failed.description or "")
    assert surroundings.tick().asset_events == []
    surroundings.publishes()
    (passed,) = surroundings.tick().asset_events
    assert isinstance(passed, dg.AssetCheckEvaluation)
    assert passed.passed
