"""The asset: the row, polling Meta when webhooks do not arrive, and the checks."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from mm_pipelines.assets.match_status import match_status
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.warehouse.database import Database
from tests.match_status.ledger import CUSTOM_AUDIENCE_ID, MONDAY, TUESDAY, Ledger

WEDNESDAY, THURSDAY = MONDAY + timedelta(days=2), TUESDAY + timedelta(days=2)


class MetaStub(ThreadingHTTPServer):
    """Answers for one Custom Audience and its sessions, or with an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.sessions: list[dict[str, str]] = []
        self.fails = False
        self.asked: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: MetaStub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        answer: dict[str, Any]
        if self.server.fails:
            answer = {"error": {"message": "no", "type": "OAuthException", "code": 190}}
        elif path.endswith("/sessions"):
            answer = {"data": self.server.sessions}
        else:
            answer = {
                "id": CUSTOM_AUDIENCE_ID,
                "approximate_count_lower_bound": 300,
                "approximate_count_upper_bound": 400,
                "operation_status": {"code": 200, "description": "Normal"},
            }
        content = json.dumps(answer).encode()
        self.send_response(400 if self.server.fails else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing is logged."""


@pytest.fixture
def meta() -> Iterator[MetaStub]:
    with MetaStub() as stub:
        thread = threading.Thread(target=stub.serve_forever)
        thread.start()
        yield stub
        stub.shutdown()
        thread.join()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


class Run:
    """A run of one day, and what it showed."""

    def __init__(self, url: str, meta: MetaStub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MM_SYSTEM_USER_TOKEN", "token")
        self._resources = {
            "mm_database": DatabaseResource(url=url),
            "mm_graph_api": GraphApiResource(
                base_url=f"http://127.0.0.1:{meta.server_port}", version="v26.0"
            ),
        }

    def of(self, day: Any = WEDNESDAY) -> tuple[dict[str, Any], dict[str, str]]:
        """The metadata, and the descriptions of the checks that did not pass."""
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [match_status],
                partition_key=f"acme_newsletter|{day}",
                resources=self._resources,
                instance=instance,
            )
        (materialization,) = result.asset_materializations_for_node("match_status")
        metadata = {name: entry.value for name, entry in materialization.metadata.items()}
        (observation,) = result.asset_observations_for_node("match_status")
        assert observation.asset_key.to_user_string() == "custom_audience"
        assert observation.partition == "acme_newsletter"
        checks = result.get_asset_check_evaluations()
        assert len(checks) == 5
        return metadata, {c.check_name: c.description or "" for c in checks if not c.passed}


@pytest.fixture
def run(database_url: str, meta: MetaStub, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(database_url, meta, monkeypatch)


def test_a_day_that_went_well_passes_every_check(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000, lower=400, upper=500)
    metadata, failed = run.of()
    assert failed == {}
    assert metadata["status"] == "complete"
    assert (metadata["match_rate_lower"], metadata["match_rate_upper"]) == (0.4, 0.5)
    assert metadata["seconds_to_processed"] >= 0
    assert ledger.pending() == 0


def test_a_waiting_day_fails_no_check(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    metadata, failed = run.of()
    assert (metadata["status"], metadata["source"], failed) == ("waiting", "none yet", {})


def test_past_the_deadline_meta_is_asked_and_its_answer_counts(
    run: Run, ledger: Ledger, meta: MetaStub
) -> None:
    session = ledger.delivers(1000, WEDNESDAY, hours_ago=25)
    meta.sessions = [{"session_id": str(session), "progress": "100", "num_received": "1000"}]
    metadata, failed = run.of()
    assert (metadata["status"], metadata["source"]) == ("complete", "poll")
    assert (metadata["match_rate_lower"], failed) == (0.3, {})


def test_within_the_deadline_meta_is_not_asked(run: Run, ledger: Ledger, meta: MetaStub) -> None:
    ledger.delivers(1000, WEDNESDAY, hours_ago=23)
    run.of()
    assert meta.asked == []


def test_an_unfinished_session_leaves_the_day_overdue_with_what_to_do(
    run: Run, ledger: Ledger, meta: MetaStub
) -> None:
    session = ledger.delivers(1000, WEDNESDAY, hours_ago=25)
    meta.sessions = [{"session_id": str(session), "progress": "40", "stage": "matching"}]
    metadata, failed = run.of()
    assert (metadata["status"], metadata["source"]) == ("overdue", "poll")
    assert set(failed) == {"every_row_is_accounted_for", "reported_in_time"}
    assert "1 batches have waited more than 24 hours" in failed["reported_in_time"]


def test_where_meta_cannot_be_asked_the_row_is_there_all_the_same(
    run: Run, ledger: Ledger, meta: MetaStub
) -> None:
    ledger.delivers(1000, WEDNESDAY, hours_ago=25)
    meta.fails = True
    metadata, failed = run.of()
    assert metadata["status"] == "overdue"
    assert "reported_in_time" in failed


def test_a_failed_batch_fails_the_check(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000, status="FAILED_SOMEHOW")
    metadata, failed = run.of()
    assert metadata["rows_failed"] == 1000
    assert "1000 rows are in batches that Meta reported as failed" in failed["batches_succeeded"]


def test_fewer_than_100_matches_fail_the_check(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000, lower=20, upper=99)
    _, failed = run.of()
    assert "below 100 Meta withholds every token" in failed["above_the_match_floor"]


def test_exactly_100_matches_are_enough(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000, lower=100, upper=100)
    assert "above_the_match_floor" not in run.of()[1]


def test_a_report_that_matches_no_batch_fails_the_check(run: Run, ledger: Ledger) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000)
    ledger.hears(77)
    metadata, failed = run.of()
    assert metadata["reports_left_over"] == 1
    assert "1 reports of this audience match no batch" in failed["every_row_is_accounted_for"]


def test_a_match_rate_below_the_median_fails_the_check(run: Run, ledger: Ledger) -> None:
    for days_ago in range(1, 4):
        ledger.execute(
            "insert into mm.match_status (audience, day, rows_uploaded, rows_processed, "
            "rows_failed, match_rate_lower, status, as_of) values "
            "('acme_newsletter', :day, 0, 0, 0, 0.6, 'complete', now())",
            day=THURSDAY - timedelta(days=days_ago),
        )
    ledger.delivers(1000, THURSDAY)
    ledger.hears(1000, lower=400, upper=500)
    _, failed = run.of(THURSDAY)
    assert "The match rate is 40.0%; the median is 60.0%" in failed["match_rate_as_usual"]


def test_a_first_upload_that_hardly_matches_is_a_warning_with_causes(
    run: Run, ledger: Ledger
) -> None:
    ledger.delivers(1000, WEDNESDAY)
    ledger.hears(1000, lower=120, upper=190)
    _, failed = run.of()
    assert "At most 19.0% of 1,000 people matched" in failed["match_rate_as_usual"]
    assert "phone numbers without country code" in failed["match_rate_as_usual"]


@pytest.mark.parametrize(("people", "upper"), [(1000, 200), (499, 0)])
def test_a_typical_rate_and_a_small_upload_are_no_warning(
    run: Run, ledger: Ledger, people: int, upper: int
) -> None:
    ledger.delivers(people, WEDNESDAY)
    ledger.hears(people, lower=0, upper=upper)
    assert "match_rate_as_usual" not in run.of()[1]
