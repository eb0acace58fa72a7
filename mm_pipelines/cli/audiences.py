"""`mm audiences`: the Custom Audiences, and the keys of mm.yaml that they are bound to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_pipelines.cli.access_tokens import Tokens
from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import show
from mm_pipelines.cli.selection import require_audience

if TYPE_CHECKING:
    from mm_pipelines.graph_api.custom_audiences import AudienceStatus
    from mm_pipelines.local.environment import Environment

app = typer.Typer(help="Custom Audiences at Meta.")

Key = Annotated[str, typer.Argument(help="The audience, by its key in mm.yaml.")]


_SOURCES = """
uploaded: people that Meta acknowledged, by our ledger. Bounds and status: from Meta's newest report
of a batch, received at `last event at`. `mm audiences --at-meta` reads them from Meta now."""


@app.callback(invoke_without_command=True)
def audiences(
    context: typer.Context,
    at_meta: Annotated[
        bool, typer.Option("--at-meta", help="Read sizes and states from Meta now.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the Custom Audiences as recorded here, or with --at-meta as Meta has them now."""
    if context.invoked_subcommand is not None:
        return
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.report import overview

    environment = Environment.resolve()
    with open_database(environment) as database, database.transaction() as connection:
        rows = overview.audiences(connection)
    if at_meta:
        rows = _at_meta(environment, rows)
    show(rows, as_json=as_json, empty="No Custom Audience was created yet.")
    if rows and not at_meta and not as_json:
        typer.echo(_SOURCES)


def _at_meta(environment: Environment, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The audiences of mm.yaml among those recorded, as Meta has them now."""
    from mm_pipelines.graph_api.custom_audiences import get_custom_audience
    from mm_pipelines.graph_api.errors import NotFoundError

    configured = environment.config().audiences
    tokens = Tokens(environment)
    rows = []
    for row in known:
        if row["audience"] not in configured:
            continue
        token = tokens.require(configured[row["audience"]].system_user_token_env)
        with tokens.client(token) as client:
            try:
                found = get_custom_audience(client, row["custom_audience_id"])
            except NotFoundError:
                found = None
        operation = found.operation_status if found else None
        delivery = found.delivery_status if found else None
        rows.append(
            {
                "audience": row["audience"],
                "custom_audience_id": row["custom_audience_id"],
                "uploaded": row["uploaded"],
                "lower_bound": found.approximate_count_lower_bound if found else None,
                "upper_bound": found.approximate_count_upper_bound if found else None,
                "operation": _state(operation) if found else "not found at Meta",
                "delivery": _state(delivery),
                "name": found.name if found else None,
            }
        )
    return rows


def _state(status: AudienceStatus | None) -> str | None:
    return None if status is None else f"{status.code} {status.description or ''}".strip()


@app.command()
def adopt(
    key: Key,
    custom_audience_id: Annotated[str, typer.Argument(help="Meta's id of the Custom Audience.")],
) -> None:
    """Bind a key of mm.yaml to an existing Custom Audience.

    Run it after a key was renamed: the history of the former key moves to the new one.
    """
    from mm_pipelines.delivery import audience_keys
    from mm_pipelines.delivery.custom_audience import AudienceSpec
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    configured = require_audience(environment, key)
    spec = AudienceSpec.of(environment.config(), key)
    tokens = Tokens(environment)
    token = tokens.require(configured.system_user_token_env)
    with open_database(environment) as database, tokens.client(token) as client:
        adopted = audience_keys.adopt(database, client, spec, custom_audience_id)
    typer.echo(f"{key} is bound to {adopted.custom_audience_id} ({adopted.name})")


@app.command()
def forget(key: Key) -> None:
    """Release a key: the next upload finds or creates its Custom Audience by name.

    Run it after the Custom Audience was deleted at Meta. Nothing is deleted here or at Meta.
    """
    from mm_pipelines.delivery import audience_keys
    from mm_pipelines.local.environment import Environment

    with open_database(Environment.resolve()) as database:
        known = audience_keys.forget(database, key)
    if known is None:
        typer.echo(f"{key} is bound to no Custom Audience")
    else:
        typer.echo(f"{key} is no longer bound to {known.custom_audience_id}")
