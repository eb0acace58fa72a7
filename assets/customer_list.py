"""Validates a day's list in its place."""

import dagster as dg

from mm_pipelines.graph_api.custom_audiences import MATCH_FLOOR
from mm_pipelines.graph_api.redaction import redact
from mm_pipelines.lists import ListReport, inspect_list, registry
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource

_FILES_SHOWN = 100


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE_BY_DAY,
    # An asset has one set of dependencies, so it is the union over the audiences.
    deps=[dg.AssetKey(list(key)) for key in CONFIG.upstream_assets()],
    group_name="lists",
    owners=["team:audience"],
    kinds={"file"},
    check_specs=[
        partitioned_check(
            "enough_people",
            asset="customer_list",
            partitions_def=AUDIENCE_BY_DAY,
            description=f"At least {MATCH_FLOOR} rows have an e-mail address or phone number.",
        ),
        partitioned_check(
            "consent_recorded",
            asset="customer_list",
            partitions_def=AUDIENCE_BY_DAY,
            description="The list records who agreed to receive messages.",
        ),
        partitioned_check(
            "names_readable",
            asset="customer_list",
            partitions_def=AUDIENCE_BY_DAY,
            description="The text encoding is certain enough to use names that are not ASCII.",
        ),
    ],
)
@translate_errors
def customer_list(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource
) -> dg.MaterializeResult:
    """The day's customer list, validated in its place. It is never copied.

    The data version is the fingerprint of the list's bytes. `mm.customer_list` keeps it for
    `hashed_payload`, which compares it with the bytes that it reads.
    """
    partition = AudienceDay.of(context)
    audience = CONFIG.audiences[partition.audience]
    report = inspect_list(partition.customer_list, default_country=audience.default_country)
    with mm_database.get().transaction() as connection:
        registry.record(connection, partition.audience, partition.day, report)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.fingerprint),
        metadata=_metadata(report),
        check_results=[
            _enough_people(report),
            _consent_recorded(report),
            _names_readable(report),
        ],
    )


def _metadata(report: ListReport) -> dict[str, dg.MetadataValue]:
    recognized = [
        f"| {key} | {', '.join(headers)} | {report.share(key):.1%} |"
        for key, headers in report.columns.items()
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(report.rows),
        "dagster/uri": dg.MetadataValue.path(report.name),
        "fingerprint": dg.MetadataValue.text(report.fingerprint),
        "bytes": dg.MetadataValue.int(report.size or 0),
        "files": _files(report),
        "format": dg.MetadataValue.text(_format(report)),
        "phones_disputed": dg.MetadataValue.int(report.phone_spellings.disputed.total()),
        "consent": dg.MetadataValue.text(_consent(report)),
        "rows_without_consent": dg.MetadataValue.int(report.rows_without_consent),
        "rows_with_identifier": dg.MetadataValue.int(report.rows_with_identifier),
        "row_numbers": dg.MetadataValue.text(
            "stable"
            if report.ordered
            else "The query has no order by and mm.yaml no source.key, so rejected rows cannot be "
            "traced by their number."
        ),
        "columns": dg.MetadataValue.md(
            "\n".join(["| key | header | filled |", "|---|---|---|", *recognized])
        ),
        "columns_with_alternatives": dg.MetadataValue.md(_alternatives(report)),
        # A pivoted list may have personal values among its column names.
        "columns_not_read": dg.MetadataValue.text(
            ", ".join(redact(name) for name in report.unrecognized) or "none"
        ),
    }
    metadata |= {
        f"share_with_{key}": dg.MetadataValue.float(report.share(key)) for key in report.columns
    }
    return metadata


def _files(report: ListReport) -> dg.TableMetadataValue:
    schema = dg.TableSchema(
        [
            dg.TableColumn("file", "text"),
            dg.TableColumn("first_row", "bigint", description="its row number in the list"),
            dg.TableColumn("rows", "bigint"),
        ]
    )
    records = [
        dg.TableRecord({"file": file.name, "first_row": file.rows_before + 1, "rows": file.rows})
        for file in report.files[:_FILES_SHOWN]
    ]
    return dg.MetadataValue.table(records, schema)


def _alternatives(report: ListReport) -> str:
    rules = [
        f"- {key}: `{first}`; where it is blank, `{'`, then `'.join(others)}`"
        for key, (first, *others) in report.alternatives.items()
    ]
    return "\n".join(rules) or "none"


def _format(report: ListReport) -> str:
    facts = [report.format, "gzip" if report.gzipped else None, report.encoding]
    if report.encoding_confidence < 1:
        facts.append(f"confidence {report.encoding_confidence:.2f}")
    if report.delimiter is not None:
        facts.append(f"delimiter {report.delimiter!r}")
    return ", ".join(fact for fact in facts if fact)


def _consent(report: ListReport) -> str:
    columns = ", ".join(report.consent.headers)
    return f"{columns} ({report.consent.source})" if columns else report.consent.source


def _consent_recorded(report: ListReport) -> dg.AssetCheckResult:
    consent = report.consent
    if consent.recorded:
        description = f"{report.rows_without_consent:,} rows without consent are rejected."
    elif consent.source == "ignored":
        description = "mm.yaml has consent: ignore, so consent is not read from the list."
    else:
        description = (
            "No column records who agreed to receive messages, so every row is accepted unless it "
            "records an opt-out. Name the column in mm.yaml under source.consent, or write "
            "consent: ignore if the list contains only people who agreed."
        )
    return dg.AssetCheckResult(
        check_name="consent_recorded",
        passed=consent.recorded or consent.source == "ignored",
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata={"rows": report.rows, "rows_without_consent": report.rows_without_consent},
    )


def _names_readable(report: ListReport) -> dg.AssetCheckResult:
    unread = ", ".join(report.unread_names)
    return dg.AssetCheckResult(
        check_name="names_readable",
        passed=not unread,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{unread} are not used: the list looks like {report.encoding}, but too few "
        "names show it. Save the list as UTF-8, or set source.encoding in mm.yaml."
        if unread
        else "All names are used.",
        metadata={"unread_names": len(report.unread_names)},
    )


def _enough_people(report: ListReport) -> dg.AssetCheckResult:
    enough = report.rows_with_identifier >= MATCH_FLOOR
    return dg.AssetCheckResult(
        check_name="enough_people",
        passed=enough,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{report.rows_with_identifier:,} rows can be matched."
        if enough
        else f"Only {report.rows_with_identifier:,} rows have consent and an e-mail address or "
        f"phone number. With fewer than {MATCH_FLOOR} matched people in the audience Meta gives no "
        "tokens. Send a longer list, or join small audiences.",
        metadata={"rows_with_identifier": report.rows_with_identifier},
    )
