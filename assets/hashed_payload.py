"""Hashes a day's list into an immutable file."""

import dagster as dg

from mm_pipelines.assets.customer_list import customer_list
from mm_pipelines.identity import KEYS
from mm_pipelines.lists import registry as lists
from mm_pipelines.lists.registry import ValidatedList
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.payload import HashedPayload, build_hashed_payload, quarantine
from mm_pipelines.payload import registry as payloads
from mm_pipelines.payload.rules import rules_version
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.storage import without_credentials
from mm_pipelines.suppression.suppression_list import SuppressionList

NOT_HASHED = ("MADID", "EXTERN_ID")


def _column_schema(keys: tuple[str, ...]) -> dg.TableSchema:
    return dg.TableSchema(
        [
            *(
                dg.TableColumn(
                    key,
                    "text",
                    description="normalized" if key in NOT_HASHED else "normalized, SHA-256 in hex",
                )
                for key in keys
            ),
            dg.TableColumn("row_number", "bigint", description="the row of the list, from 1"),
        ]
    )


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE_BY_DAY,
    deps=[customer_list],
    code_version=rules_version(),
    group_name="lists",
    owners=["team:audience"],
    kinds={"polars", "parquet"},
    metadata={"dagster/column_schema": _column_schema(KEYS)},
    check_specs=[
        partitioned_check(
            "no_row_lost",
            asset="hashed_payload",
            partitions_def=AUDIENCE_BY_DAY,
            description="Accepted, merged, rejected and suppressed rows add up to the rows read. "
            "Otherwise the payload is not uploaded.",
            blocking=True,
        )
    ],
)
@translate_errors
def hashed_payload(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """One row per person: values normalized and SHA-256 hashed, in an immutable Parquet file.

    Rejected rows are in `mm.rejected_row` by number and reasons. Opted-out people are excluded.
    """
    partition = AudienceDay.of(context)
    audience = CONFIG.audiences[partition.audience]
    validated = _validated_list(mm_database, partition)
    opted_out = SuppressionList.load(mm_database.get(), mm_suppression.get())
    payload = build_hashed_payload(
        partition.customer_list,
        mm_storage.get(),
        folder=f"hashed_payload/{partition.audience}/{partition.day}",
        default_country=audience.default_country,
        phone_convention=validated.phone_convention,
        expected_fingerprint=validated.fingerprint,
        suppression=opted_out,
    )
    opted_out.move_to_current_key(mm_database.get())
    quarantine.replace(
        mm_database.get(),
        partition.audience,
        partition.day,
        "hashed_payload",
        payload.rejected_rows.frames(),
    )
    with mm_database.get().transaction() as connection:
        payloads.record(
            connection,
            payloads.HashedPayload(
                partition.audience,
                partition.day,
                sha256=payload.sha256,
                path=payload.path,
                rows=payload.accepted,
                no_row_lost=payload.no_row_lost,
            ),
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(payload.sha256),
        metadata=_metadata(payload),
        check_results=[_no_row_lost(payload)],
    )


def _validated_list(database: DatabaseResource, partition: AudienceDay) -> ValidatedList:
    with database.get().transaction() as connection:
        validated = lists.validated(connection, partition.audience, partition.day)
    if validated is None:
        raise dg.Failure(
            f"customer_list has not validated {partition.key} yet. Materialize it first, "
            "or run the job daily_upload, which does both.",
            allow_retries=False,
        )
    return validated


def _metadata(payload: HashedPayload) -> dict[str, dg.MetadataValue]:
    reasons = payload.rejection_reasons
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(payload.accepted),
        "dagster/uri": dg.MetadataValue.path(without_credentials(payload.url)),
        "dagster/column_schema": dg.MetadataValue.table_schema(_column_schema(payload.keys)),
        "rows_read": dg.MetadataValue.int(payload.read),
        "rows_merged": dg.MetadataValue.int(payload.merged),
        "rows_rejected": dg.MetadataValue.int(payload.rejected),
        "rows_suppressed": dg.MetadataValue.int(payload.suppressed),
        "rows_with_changed_phone_hash": dg.MetadataValue.int(payload.former_phones),
        "rows_with_unknown_country": dg.MetadataValue.int(payload.unknown_countries),
        "share_rejected": dg.MetadataValue.float(payload.rejected / max(payload.read, 1)),
        "rejections": dg.MetadataValue.table(
            [
                dg.TableRecord({"reason": reason, "rows": rows})
                for reason, rows in payload.rejection_reasons.items()
            ],
            dg.TableSchema([dg.TableColumn("reason", "text"), dg.TableColumn("rows", "bigint")]),
        ),
    }
    metadata |= {
        f"rejected_{reason}": dg.MetadataValue.int(rows) for reason, rows in reasons.items()
    }
    for key in payload.keys:
        metadata |= {
            f"usable_{key}": dg.MetadataValue.int(payload.usable[key]),
            f"unusable_{key}": dg.MetadataValue.int(payload.blanked[key]),
            f"share_with_{key}": dg.MetadataValue.float(payload.usable[key] / max(payload.read, 1)),
        }
    return metadata


def _no_row_lost(payload: HashedPayload) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="no_row_lost",
        passed=payload.no_row_lost,
        description=f"All {payload.read:,} rows are accounted for."
        if payload.no_row_lost
        else f"{payload.read:,} rows were read and {payload.accounted_for:,} are accounted for. "
        "This is a defect of the software. The payload is not uploaded. Report it.",
        metadata={"rows_read": payload.read, "rows_accounted_for": payload.accounted_for},
    )
