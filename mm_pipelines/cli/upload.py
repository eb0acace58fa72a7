"""`mm upload --dry-run`: what an upload would do."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import encode, fail, show
from mm_pipelines.cli.selection import require_audience

if TYPE_CHECKING:
    from mm_pipelines.delivery.preview import UploadPreview
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.database import Database

_EXAMPLES = 5
_MADE_UP = {
    "EMAIL": " Mary.Example@Example.COM ",
    "PHONE": "",  # by the audience's country
    "FN": "Mary-Ann",
    "LN": "O'Neill",
    "CT": "São Paulo",
    "ST": "California",
    "ZIP": "94035-1234",
    "COUNTRY": "United States",
    "GEN": "Female",
    "DOBY": "1990",
    "DOBM": "7",
    "DOBD": "31",
    "DOB": "1990-07-31",
}


def upload(
    audience: Annotated[str, typer.Argument(help="The audience, by its key in mm.yaml.")],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The list's day.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Required: this command never sends anything.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an upload of this partition would do, without a call to Meta.

    The partition needs its hashed payload: materialize customer_list and hashed_payload, which send
    nothing. The examples are made-up values, normalized by the rules for this audience. Uploads
    themselves run in Dagster.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.report import overview

    if not dry_run:
        fail("uploads run in Dagster: materialize audience_upload. Here, add --dry-run")
    environment = Environment.resolve()
    require_audience(environment, audience)
    with open_database(environment) as database:
        planned = _preview(environment, database, audience, day.date())
        with database.transaction() as connection:
            rejected = overview.rejections(
                connection, audiences=[audience], since=day.date(), until=day.date()
            )
        examples = _examples(environment, database, audience, day.date())
    if as_json:
        typer.echo(encode({**asdict(planned), "rejected": rejected, "examples": examples}))
        return
    show(_lines(planned), as_json=False, empty="")
    typer.echo("")
    show(rejected, as_json=False, empty="No row of the list was rejected.")
    typer.secho("\nHow made-up values of this list's columns are sent", bold=True)
    show(examples, as_json=False, empty="The list's columns are not known.")


def _preview(
    environment: Environment, database: Database, audience: str, day: date
) -> UploadPreview:
    from mm_pipelines.delivery.preview import preview
    from mm_pipelines.delivery.upload_plan import UploadPlan
    from mm_pipelines.storage import Storage
    from mm_pipelines.suppression.suppression_list import match_suppressed

    config = environment.config()
    return preview(
        database,
        Storage(environment.storage_url),
        UploadPlan.of(config, audience, day),
        partial(match_suppressed, database, environment.suppression_keys()),
        config.settings.minimum_upload,
    )


def _lines(planned: UploadPreview) -> list[dict[str, object]]:
    lines: dict[str, object] = {
        "Custom Audience": "exists" if planned.exists else "would be created",
        "people in it": planned.people_in_audience,
        "rows of an unfinished upload to send first": planned.unfinished_rows,
        "new people to add": planned.new_people,
        "members to send again, to reach minimum_upload": planned.members_sent_again,
        "people to remove (mirror mode)": planned.removed_people,
    }
    if planned.skipped:
        lines["nothing to send"] = planned.skipped
    return [{"upload": name, "": value} for name, value in lines.items()]


def _examples(
    environment: Environment, database: Database, audience: str, day: date
) -> list[dict[str, str]]:
    import phonenumbers
    import polars as pl

    from mm_pipelines.identity import KEYS, normalize, normalize_and_hash
    from mm_pipelines.lists import registry

    with database.transaction() as connection:
        columns = registry.columns(connection, audience, day)
    chosen = [key for key in _MADE_UP if key in columns][:_EXAMPLES]
    country = environment.config().audiences[audience].default_country
    phone = phonenumbers.example_number(country or "US")
    national = phonenumbers.PhoneNumberFormat.NATIONAL
    values = {**_MADE_UP, "PHONE": phonenumbers.format_number(phone, national) if phone else ""}
    frame = pl.DataFrame({key: [values[key]] for key in chosen}, dict.fromkeys(chosen, pl.String))
    plain = normalize(frame, default_country=country)
    sent = normalize_and_hash(frame, default_country=country)
    return [
        {
            "key": key,
            "in the list": values.get(key, values["DOB"]),
            "normalized": plain[key].item() or "",
            "sent": sent[key].item() or "",
        }
        for key in KEYS
        if key in plain.columns
    ]
