"""A day's list through `customer_list` and `hashed_payload`, as Dagster runs them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.assets.customer_list import customer_list
from mm_pipelines.assets.hashed_payload import hashed_payload
from mm_pipelines.partitions import CONFIG
from mm_pipelines.payload.rules import rules_version
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.warehouse.database import Database

KEY = "acme_newsletter|2026-11-20"
LIST = """\
email,phone,first_name,shoe_size
mary@example.com,15559876543,Mary,38
,,Unknown,39
 MARY@example.com ,+1 555 987 6543,Mary,38
not-an-address,,Noone,40
john@example.com,,John,41
"""


@pytest.fixture
def the_list() -> Iterator[Path]:
    path = CONFIG.directory / "customers" / "acme_newsletter" / "2026-11-20.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LIST, encoding="utf-8")
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def resources(database_url: str, tmp_path: Path) -> dict[str, object]:
    return {
        "mm_database": DatabaseResource(url=database_url),
        "mm_storage": StorageResource(base_url=str(tmp_path / "storage")),
        "mm_suppression": SuppressionResource(key="a key for the tests"),
    }


def run(
    instance: dg.DagsterInstance,
    resources: dict[str, object],
    *assets: dg.AssetsDefinition,
    key: str = KEY,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [customer_list, hashed_payload],
        selection=list(assets),
        partition_key=key,
        instance=instance,
        resources=resources,
        raise_on_error=False,
    )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    told = failures[0].step_failure_data.user_failure_data
    assert told is not None
    return str(told.description)


def test_a_list_becomes_one_row_a_person_and_no_row_is_lost(
    the_list: Path,
    instance: dg.DagsterInstance,
    resources: dict[str, object],
    database: Database,
) -> None:
    result = run(instance, resources, customer_list, hashed_payload)
    assert result.success
    listed, hashed = result.get_asset_materialization_events()
    metadata = listed.materialization.metadata
    assert metadata["dagster/row_count"].value == 5
    assert metadata["columns_not_read"].value == "shoe_size"
    metadata = hashed.materialization.metadata
    assert metadata["rows_read"].value == 5
    assert metadata["dagster/row_count"].value == 2
    assert metadata["rows_merged"].value == 1
    assert metadata["rows_rejected"].value == 2
    people = pl.read_parquet(str(metadata["dagster/uri"].value))
    assert people.columns == ["EMAIL", "PHONE", "FN", "row_number"]
    assert people["row_number"].to_list() == [1, 5]
    with database.transaction() as connection:
        rejected = connection.execute(
            text("select stage, row_number, reasons from mm.rejected_row order by row_number")
        ).all()
    assert [tuple(row) for row in rejected] == [
        ("hashed_payload", 2, ["no_identifier"]),
        ("hashed_payload", 4, ["invalid_email"]),
    ]


def test_no_event_of_a_run_holds_a_value_or_a_hash_of_the_list(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    result = run(instance, resources, customer_list, hashed_payload)
    told = "".join(repr(entry) for entry in instance.all_logs(result.run_id))
    uri = result.asset_materializations_for_node("hashed_payload")[0].metadata["dagster/uri"].value
    hashes = set(pl.read_parquet(str(uri)).select("EMAIL", "PHONE", "FN").unpivot()["value"]) - {""}
    for value in ("mary@", "john@", "555987", "5559876543", "Mary", "not-an-address", *hashes):
        assert value not in told


def test_a_list_that_changed_since_it_was_validated_is_refused(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    assert run(instance, resources, customer_list).success
    the_list.write_text(LIST + "late@example.com,,Late,42\n", encoding="utf-8")
    refused = run(instance, resources, hashed_payload)
    assert "The list changed after it was validated" in failure_of(refused)
    assert run(instance, resources, customer_list, hashed_payload).success


def test_a_payload_needs_a_validated_list(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    assert "customer_list has not validated" in failure_of(run(instance, resources, hashed_payload))


def test_a_missing_list_fails_by_name_and_nothing_downstream_runs(
    instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    result = run(instance, resources, customer_list, hashed_payload)
    assert "2026-11-20.csv: there is no such file" in failure_of(result)
    assert not result.get_asset_materialization_events()


def test_the_same_list_gives_the_same_payload(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    uris = {
        run(instance, resources, customer_list, hashed_payload)
        .asset_materializations_for_node("hashed_payload")[0]
        .metadata["dagster/uri"]
        .value
        for _ in range(2)
    }
    assert len(uris) == 1


def test_too_few_people_for_meta_is_a_warning(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    check, *_ = run(instance, resources, customer_list).get_asset_check_evaluations()
    assert check.check_name == "enough_people"
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN


def test_another_suppression_key_stops_the_payload(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    assert run(instance, resources, customer_list, hashed_payload).success
    other = {**resources, "mm_suppression": SuppressionResource(key="another key")}
    assert "MM_SUPPRESSION_KEY" in failure_of(run(instance, other, hashed_payload))


def test_a_range_of_partitions_in_one_run_is_refused_clearly(
    instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    result = dg.materialize(
        [customer_list],
        instance=instance,
        resources=resources,
        tags={
            "dagster/asset_partition_range_start": "acme_newsletter|2026-11-18",
            "dagster/asset_partition_range_end": "acme_newsletter|2026-11-20",
        },
        raise_on_error=False,
    )
    assert "Launch a backfill" in failure_of(result)


def test_a_list_without_a_header_is_refused_and_nothing_of_it_is_quoted(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    the_list.write_text("Cell,Mary,+15559876543\n,John,+15559876544\n", encoding="utf-8")
    result = run(instance, resources, customer_list)
    assert "the first line holds values, not column names" in failure_of(result)
    logged = "".join(repr(entry) for entry in instance.all_logs(result.run_id))
    for value in ("Mary", "555987"):
        assert value not in logged


def test_two_columns_of_one_key_are_named_with_the_rule(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    the_list.write_text("email,Phone,Mobile\na@example.com,1,2\n", encoding="utf-8")
    (event,) = run(instance, resources, customer_list).get_asset_materialization_events()
    rule = event.materialization.metadata["columns_with_alternatives"].value
    assert rule == "- PHONE: `Mobile`; where it is blank, `Phone`"


def test_rows_without_consent_are_rejected_and_counted(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    the_list.write_text("email,Accepts Email Marketing\na@b.co,yes\nb@b.co,no\n", encoding="utf-8")
    result = run(instance, resources, customer_list, hashed_payload)
    listed, hashed = result.get_asset_materialization_events()
    assert listed.materialization.metadata["consent"].value == "Accepts Email Marketing (Shopify)"
    assert listed.materialization.metadata["rows_without_consent"].value == 1
    assert hashed.materialization.metadata["rejected_no_consent"].value == 1
    assert hashed.materialization.metadata["dagster/row_count"].value == 1


def test_a_list_that_records_no_consent_is_accepted_with_a_warning(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    _, check, _ = run(instance, resources, customer_list).get_asset_check_evaluations()
    assert check.check_name == "consent_recorded"
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_names_in_an_uncertain_encoding_are_not_hashed_and_a_check_warns(
    the_list: Path, instance: dg.DagsterInstance, resources: dict[str, object]
) -> None:
    the_list.write_bytes("email,fn\na@b.co,Dvořák\nb@b.co,Ann\n".encode("cp1250"))
    result = run(instance, resources, customer_list, hashed_payload)
    listed, hashed = result.get_asset_materialization_events()
    *_, check, _ = result.get_asset_check_evaluations()
    assert check.check_name == "names_readable"
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "windows-1250, confidence" in str(listed.materialization.metadata["format"].value)
    assert hashed.materialization.metadata["usable_FN"].value == 0
    assert hashed.materialization.metadata["dagster/row_count"].value == 2


def test_a_validated_list_is_recorded_with_its_phone_convention(
    the_list: Path,
    instance: dg.DagsterInstance,
    resources: dict[str, object],
    database: Database,
) -> None:
    """German mobiles with trunk prefix missing: the bare 4915112345678 is then a national one."""
    numbers = ["4915112345678", "15112345679", "15112345680"]
    the_list.write_text("phone,country\n" + "".join(f"{number},DE\n" for number in numbers))
    for _ in range(2):
        result = run(instance, resources, customer_list, hashed_payload)
    listed, hashed = result.get_asset_materialization_events()
    assert listed.materialization.metadata["phones_disputed"].value == 1
    with database.transaction() as connection:
        [row] = connection.execute(text("select * from mm.customer_list")).all()
    assert (row.audience, row.day.isoformat(), row.rows) == ("acme_newsletter", "2026-11-20", 3)
    assert row.fingerprint == hashlib.sha256(the_list.read_bytes()).hexdigest()
    assert row.columns == {"PHONE": ["phone"], "COUNTRY": ["country"]}
    assert row.phone_convention == {"DE": "national"}
    assert row.files == [
        {
            "name": "2026-11-20.csv",
            "rows_before": 0,
            "rows": 3,
            "fingerprint": row.fingerprint,
        }
    ]
    people = pl.read_parquet(str(hashed.materialization.metadata["dagster/uri"].value))
    expected = hashlib.sha256(f"49{numbers[0]}".encode()).hexdigest()
    assert people["PHONE"].to_list()[0] == expected


def test_a_lost_row_stops_the_upload_of_the_run() -> None:
    [spec] = hashed_payload.check_specs
    assert (spec.name, spec.blocking) == ("no_row_lost", True)


def test_a_payload_of_older_rules_is_stale() -> None:
    assert hashed_payload.code_versions_by_key == {hashed_payload.key: rules_version()}
