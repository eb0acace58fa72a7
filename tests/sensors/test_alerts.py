"""Alerts about failed runs and checks."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from mm_pipelines.alerts import Alert, AlertError, body_for, group
from mm_pipelines.definitions import defs
from mm_pipelines.sensors import alert_sensor

ALERT = Alert("audience_upload", "Meta refused the token.", ("a|2026-11-20",), "http://ui/runs/1")


class Service:
    """An incoming webhook on loopback, which keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                service.bodies.append(json.loads(self.rfile.read(length)))
                self.send_response(service.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Print nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret-path"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    thread = Thread(target=service.server.serve_forever)
    thread.start()
    monkeypatch.setenv("MM_ALERT_WEBHOOK_URL", service.url)
    yield service
    service.server.shutdown()
    service.server.server_close()
    thread.join()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance, cursor: str | None) -> str:
    with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs) as context:
        result = alert_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert result.cursor
    return result.cursor


def a_run(
    instance: dg.DagsterInstance, error: Exception | None, *, key: str = "custom_audience"
) -> None:
    """A run of an asset of ours, or of another team's, that raises or whose check fails."""

    @dg.asset(key=key, check_specs=[dg.AssetCheckSpec("as_usual", asset=key)])
    def asset() -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster refuses the argument
        if error is not None:
            raise error
        failed = dg.AssetCheckResult(
            check_name="as_usual", passed=False, description="The match rate is 3 %."
        )
        return dg.MaterializeResult(check_results=[failed])

    job = dg.Definitions(
        assets=[asset], jobs=[dg.define_asset_job("one", selection=[asset])]
    ).resolve_job_def("one")
    job.execute_in_process(
        instance=instance, raise_on_error=False, asset_selection=[dg.AssetKey(key)]
    )


def texts(service: Service) -> list[str]:
    return [alert["message"] for body in service.bodies for alert in body["alerts"]]


def test_a_failed_run_is_sent_once_with_its_sentence_and_link(
    service: Service, instance: dg.DagsterInstance
) -> None:
    cursor = tick(instance, None)
    a_run(instance, dg.Failure("The token expired. Make a new one."))
    cursor = tick(instance, cursor)
    cursor = tick(instance, cursor)
    (alert,) = service.bodies[0]["alerts"]
    assert len(service.bodies) == 1
    assert alert["subject"] == "custom_audience"
    assert alert["message"] == "The token expired. Make a new one."
    assert alert["run_url"].startswith("http://127.0.0.1:3000/runs/")


def test_a_foreign_exception_is_named_by_its_class_only(
    service: Service, instance: dg.DagsterInstance
) -> None:
    cursor = tick(instance, None)
    a_run(instance, ValueError("canary@example.com"))
    tick(instance, cursor)
    assert texts(service) == ["ValueError. Open the run for the details."]
    assert "canary" not in json.dumps(service.bodies)


def test_a_failed_check_is_sent(service: Service, instance: dg.DagsterInstance) -> None:
    cursor = tick(instance, None)
    a_run(instance, None)
    tick(instance, cursor)
    assert texts(service) == ["The match rate is 3 %."]


def test_the_same_failure_is_sent_once_an_hour(
    service: Service, instance: dg.DagsterInstance
) -> None:
    cursor = tick(instance, None)
    for _ in range(3):
        a_run(instance, dg.Failure("The token expired."))
        cursor = tick(instance, cursor)
    assert texts(service) == ["The token expired."]


def test_runs_of_other_teams_are_not_sent(service: Service, instance: dg.DagsterInstance) -> None:
    cursor = tick(instance, None)
    a_run(instance, dg.Failure("It rained."), key="weather")
    tick(instance, cursor)
    assert service.bodies == []


def test_alerts_that_were_not_accepted_are_sent_again(
    service: Service, instance: dg.DagsterInstance
) -> None:
    cursor = tick(instance, None)
    a_run(instance, dg.Failure("The token expired."))
    service.status = 500
    with pytest.raises(AlertError) as refused:
        tick(instance, cursor)
    assert "secret-path" not in str(refused.value)
    service.status = 200
    tick(instance, cursor)
    assert texts(service) == ["The token expired."] * 2


def test_nothing_is_sent_without_the_variable(instance: dg.DagsterInstance) -> None:
    a_run(instance, dg.Failure("The token expired."))
    with dg.build_sensor_context(instance=instance, definitions=defs) as context:
        result = alert_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason
    assert "MM_ALERT_WEBHOOK_URL is not set" in str(result.skip_reason.skip_message)


def test_equal_alerts_are_grouped_with_their_partitions() -> None:
    other = Alert(ALERT.subject, ALERT.message, ("b|2026-11-20",), "http://ui/runs/2")
    (merged,) = group([ALERT, other, ALERT])
    assert merged.partitions == ("a|2026-11-20", "b|2026-11-20")
    assert merged.occurrences == 3


def test_each_service_gets_its_format() -> None:
    assert body_for("https://hooks.slack.com/services/T/B/x", [ALERT]) == {"text": ALERT.text}
    teams = body_for("https://acme.webhook.office.com/webhookb2/x", [ALERT])
    assert teams["attachments"][0]["content"]["body"][0]["text"] == ALERT.text
    assert body_for("https://alerts.example/", [ALERT])["alerts"][0]["subject"] == ALERT.subject
