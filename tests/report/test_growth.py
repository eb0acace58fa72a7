"""The growth report's numbers, its picture and its HTML file."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from mm_pipelines.cli import app
from mm_pipelines.report import figures, growth
from mm_pipelines.report.figures import FunnelStep, Scope
from mm_pipelines.report.growth import DayOfPage, Growth
from mm_pipelines.report.growth_table import payloads_as_markdown
from mm_pipelines.tokens.snapshots import take_snapshot
from mm_pipelines.warehouse.database import Database
from tests.chromium import chromium

ROOT = Path(__file__).parents[2]
PAGE_ID = "134141414124123"
AUDIENCE = "acme_newsletter"
ZONE = ZoneInfo("UTC")
DAYS = 42
CANARY, PSID = "8123canary", "4815162342"

LISTS = """
insert into mm.customer_list (audience, day, fingerprint, rows, files, columns, phone_convention)
values ('acme_newsletter', :day, 'x', 120, '[]', '{}', '{}');
insert into mm.hashed_payload (audience, day, sha256, path, rows)
values ('acme_newsletter', :day, 'x', 'x', 100);
insert into mm.upload_batch
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, acknowledged_at)
values ('acme_newsletter', :day, extract(doy from cast(:day as date)), 1, 80, 'x', 'acknowledged',
        now());
insert into mm.match_status
    (audience, day, status, rows_uploaded, rows_processed, rows_failed, lower_bound, upper_bound,
     match_rate_lower, match_rate_upper, as_of)
values ('acme_newsletter', :day, 'complete', 80, 80, 0, 40, 60, 0.5, 0.75, now());
insert into mm.rejected_row (audience, day, stage, row_number, reasons)
values ('acme_newsletter', :day, 'hashed_payload', 7, '{no_identifier,email_invalid}')
"""
MATCHED = """
update mm.match_status
set lower_bound = 40 * :grown, match_rate_lower = 0.3 + 0.004 * :grown,
    match_rate_upper = 0.4 + 0.004 * :grown
where day = :day
"""
SNAPSHOT = f"""
insert into mm.token_snapshot
    (page_id, day, as_of, live, deduplicated, custom_audience, opt_in, click_to_messenger,
     automation, appeared, returned, vanished)
values ('134141414124123', :day, now(), 36 * :grown, 36 * :grown, 30 * :grown, 4 * :grown,
        2 * :grown, 0, 36 + :grown % 7 * 3, 0, 4 + :grown % 5 * 3);
{MATCHED}
"""
MORE_TOKENS = """
insert into mm.subscription_token (page_id, token, source, first_seen_at, last_seen_at)
select '134141414124123', number,
       case number % 9 when 0 then 'opt_in' when 1 then 'click_to_messenger'
            else 'custom_audience' end, :seen, :seen
from generate_series(1, :count) as number
"""
TOKENS = """
insert into mm.subscription_token
    (page_id, token, recipient_id, source, first_seen_at, last_seen_at)
values ('134141414124123', '8123canary', '4815162342', 'opt_in', :seen, :seen),
       ('134141414124123', '8124canary', null, 'custom_audience', :seen, :seen)
"""


def execute(database: Database, statements: str, **values: object) -> None:
    with database.transaction() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement), values)


def counted(database: Database, day: date, now: datetime) -> Growth:
    with database.transaction() as connection:
        growth.refresh(connection, DayOfPage.at(PAGE_ID, [AUDIENCE], day, ZONE, now))
        return growth.until(connection, PAGE_ID, day, 1)[-1]


@pytest.fixture
def today(database: Database) -> date:
    """A day with a list, a delivery and two tokens."""
    now = datetime.now(UTC)
    execute(database, LISTS, day=now.date())
    execute(database, TOKENS, seen=now - timedelta(days=3))
    return now.date()


def test_a_day_is_counted_from_its_lists_to_its_sendable_tokens(
    database: Database, today: date
) -> None:
    day = counted(database, today, datetime.now(UTC))
    assert (day.list_rows, day.valid, day.delivered, day.processed) == (120, 100, 80, 80)
    assert (day.matched, day.tokens, day.sendable) == (40, 2, 2)


def test_opt_ins_are_counted_by_the_payload_of_their_request(
    database: Database, today: date
) -> None:
    requests = """
        insert into mm.optin_request (page_id, psid, title, payload, asked_at, state, granted_at)
        values (:page_id, '1', 'News', 'spring', now(), 'sent', now()),
               (:page_id, '2', 'News', 'spring', now(), 'unknown', null),
               (:page_id, '3', 'News', 'autumn', now(), 'sent', null),
               (:page_id, '4', 'News', 'autumn', now(), 'released', null),
               (:page_id, '5', 'News', null, now(), 'sent', now())
    """
    execute(database, requests, page_id=PAGE_ID)
    day = counted(database, today, datetime.now(UTC))
    assert day.opt_ins_by_payload == {
        "spring": {"asked": 2, "opted_in": 1},
        "autumn": {"asked": 1, "opted_in": 0},
        "": {"asked": 1, "opted_in": 1},
    }
    assert "| spring | 2 | 1 |" in payloads_as_markdown(day)


def test_what_was_sendable_on_a_past_day_is_unknown_and_never_zero(
    database: Database, today: date
) -> None:
    yesterday = today - timedelta(days=1)
    past = DayOfPage.at(PAGE_ID, [AUDIENCE], yesterday, ZONE, datetime.now(UTC))
    with database.transaction() as connection:
        take_snapshot(connection, PAGE_ID, yesterday, begins_at=past.begin, ends_at=past.end)
    day = counted(database, yesterday, datetime.now(UTC))
    assert (day.tokens, day.sendable) == (2, None)


def test_a_later_count_keeps_what_was_sendable_at_the_days_end(
    database: Database, today: date
) -> None:
    assert counted(database, today, datetime.now(UTC)).sendable == 2
    execute(database, "delete from mm.subscription_token")
    assert counted(database, today, datetime.now(UTC) + timedelta(days=1)).sendable == 2


def test_the_funnel_shows_conversion_between_known_steps() -> None:
    counts = {"list_rows": 200, "valid": 100, "matched": None, "tokens": 50, "sendable": 60}
    steps = {step.label: (step.count, step.conversion) for step in figures.funnel(counts)}
    assert steps["people in payloads"] == (100, 0.5)
    assert steps["matched, at least"] == (None, None)
    assert steps["live tokens"] == (50, 0.5)
    assert steps["sendable now"] == (60, None)


@pytest.mark.parametrize("counts", [{}, {"list_rows": 0, "valid": 0}])
def test_a_funnel_without_rows_has_no_conversion(counts: dict[str, int | None]) -> None:
    assert {step.conversion for step in figures.funnel(counts)} == {None}


def test_an_unknown_step_is_drawn_as_unknown(database: Database, today: date) -> None:
    from mm_pipelines.report.charts import charts

    with database.transaction() as connection:
        scope = Scope("acme", PAGE_ID, [AUDIENCE], today, today)
        drawn = charts(figures.collect(connection, scope))
    assert "unknown" in json.dumps(next(iter(drawn.values())).to_dict())


def test_figures_cover_every_chart(database: Database, today: date) -> None:
    with database.transaction() as connection:
        growth.bring_up_to_date(connection, PAGE_ID, [AUDIENCE], ZONE, datetime.now(UTC))
        scope = Scope("acme", PAGE_ID, [AUDIENCE], today - timedelta(days=7), today)
        found = figures.collect(connection, scope)
    assert found.funnel[0] == FunnelStep("rows in lists", 120, None)
    assert {row["source"]: row["tokens"] for row in found.tokens} == {
        "opt-in request": 1,
        "Custom Audience": 1,
    }
    assert found.match_rates == [
        {"audience": AUDIENCE, "day": today.isoformat(), "lower": 0.5, "upper": 0.75}
    ]
    assert {row["reason"]: row["rows"] for row in found.rejections} == {
        "no_identifier": 1,
        "email_invalid": 1,
    }
    assert {row["kind"] for row in found.churn} == {"gained", "lost"}


def test_days_that_were_never_counted_are_counted(database: Database, today: date) -> None:
    earlier = today - timedelta(days=5)
    execute(database, LISTS, day=earlier)
    with database.transaction() as connection:
        growth.bring_up_to_date(connection, PAGE_ID, [AUDIENCE], ZONE, datetime.now(UTC))
        days = growth.until(connection, PAGE_ID, today, 30)
    assert [day.day for day in days] == [earlier, today]
    assert days[0].sendable is None


@pytest.fixture
def history(database: Database, today: date) -> None:
    """Six weeks of lists, tokens, match rates and rejected rows."""
    for number in range(1, DAYS + 1):
        day = today - timedelta(days=number)
        execute(database, LISTS, day=day)
        execute(database, SNAPSHOT, day=day, grown=DAYS - number)
    execute(database, MATCHED, day=today, grown=DAYS)
    long_ago = datetime.now(UTC) - timedelta(days=60)
    execute(database, MORE_TOKENS, seen=long_ago, count=35 * DAYS)


@pytest.fixture
def html(database_url: str, history: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `mm report` writes."""
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "examples/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    output = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--page", "acme", "--output", str(output)])
    assert result.exit_code == 0, result.output
    return output


def test_the_html_report_loads_nothing_and_names_no_person(html: Path) -> None:
    content = html.read_text(encoding="utf-8")
    markup = re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL)
    assert "Rejected rows by reason" in markup
    assert "default-src 'none'" in markup
    assert not re.search(r"<[^>]+(?:src|href)=", markup)
    assert CANARY not in content
    assert PSID not in content


@pytest.mark.browser
def test_the_html_report_draws_every_chart_without_a_request(
    database: Database, today: date, html: Path
) -> None:
    """The documentation shows the picture."""
    requests: list[str] = []
    problems: list[str] = []
    with chromium() as browser:
        page = browser.new_context(
            offline=True, viewport={"width": 1100, "height": 1270}
        ).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(html.as_uri())
        page.wait_for_selector("figure svg")
        drawn = page.locator("figure svg").count()
        charts = page.locator("figure").count()
        numbers = page.locator("figure").first.inner_text()
        page.screenshot(path=ROOT / "docs/growth_report.png")
    assert (drawn, problems, requests) == (charts, [], [html.as_uri()])
    assert charts == 5
    assert f"{120 * (DAYS + 1):,}" in numbers
    assert "83% of the step before" in numbers


def test_the_report_of_an_audience_shows_its_summary(
    database_url: str, today: date, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "examples/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    output = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--audience", AUDIENCE, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "people, matched 40 to 60 (50% to 75%)" in output.read_text(encoding="utf-8")


def test_the_report_refuses_another_file_name_and_an_unknown_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "examples/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path))
    runner = CliRunner()
    assert "must end in .html" in runner.invoke(app, ["report", "--output", "r.pdf"]).stderr
    unknown = runner.invoke(app, ["report", "--page", "nope", "--output", "r.html"])
    assert "has no page 'nope'; known are acme, globex" in unknown.stderr
