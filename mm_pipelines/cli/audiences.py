"""`mm audiences`: the Custom Audiences, and the keys of mm.yaml that they are bound to."""

from typing import Annotated

import typer

from mm_pipelines.cli.access_tokens import Tokens
from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import show
from mm_pipelines.cli.selection import require_audience

app = typer.Typer(help="Custom Audiences at Meta.")

Key = Annotated[str, typer.Argument(help="The audience, by its key in mm.yaml.")]


@app.callback(invoke_without_command=True)
def audiences(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the Custom Audiences at Meta."""
    if context.invoked_subcommand is not None:
        return
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.report import overview

    with open_database(Environment.resolve()) as database, database.transaction() as connection:
        rows = overview.audiences(connection)
    show(rows, as_json=as_json, empty="No Custom Audience was created yet.")


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
