"""`mm webhooks`: the receiver, its subscriptions at Meta, and replaying events."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from mm_pipelines.cli.access_tokens import Tokens
from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail, show
from mm_pipelines.local.ports import HOST, RECEIVER_PORT

app = typer.Typer(help="Receive Meta's webhooks and manage the subscriptions.")


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = RECEIVER_PORT,
) -> None:
    """Without a subcommand: run the receiver until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.webhooks.app import ReceiverSettings
    from mm_pipelines.webhooks.server import run

    environment = Environment.resolve()
    tokens = Tokens(environment)
    names = ("MM_APP_SECRET", "MM_APP_SECRET_PREVIOUS")
    try:
        settings = ReceiverSettings(
            app_secrets=tuple(secret for name in names if (secret := tokens.get(name))),
            verify_token=tokens.get("MM_WEBHOOK_VERIFY_TOKEN") or "",
        )
    except ValueError as error:
        fail(str(error))
    with open_database(environment) as database:
        run(settings, database, host=host, port=port)


@app.command()
def subscribe(
    callback_url: Annotated[
        str, typer.Option(help="Public https:// address of the receiver, ending in /webhooks.")
    ],
) -> None:
    """Subscribe the app and the Pages to the webhook fields that mm_pipelines needs.

    The receiver must already be reachable: Meta calls it to verify the subscription.
    """
    from mm_pipelines.graph_api.subscriptions import PAGE_FIELDS, subscribe_app, subscribe_page
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    config = environment.config()
    tokens = Tokens(environment)
    app_id = tokens.require("MM_APP_ID")
    with tokens.client(tokens.app_token()) as client:
        done = subscribe_app(
            client,
            app_id,
            object_type="page",
            callback_url=callback_url,
            fields=PAGE_FIELDS,
            verify_token=tokens.require("MM_WEBHOOK_VERIFY_TOKEN"),
        )
    if not done:
        fail(f"Meta did not subscribe app {app_id}: see `mm webhooks status`, then try again")
    typer.echo(f"app {app_id}: {', '.join(PAGE_FIELDS)} to {callback_url}")
    for key, page in config.pages.items():
        with tokens.client(tokens.require(page.access_token_env)) as client:
            done = subscribe_page(client, page.page_id)
        if not done:
            fail(f"Meta did not subscribe Page {key}: see `mm webhooks status`, then try again")
        typer.echo(f"Page {key}: {', '.join(PAGE_FIELDS)}")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the subscriptions of the app and of each Page at Meta."""
    from mm_pipelines.graph_api.subscriptions import app_subscriptions, page_subscriptions
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    config = environment.config()
    tokens = Tokens(environment)
    app_id = tokens.require("MM_APP_ID")
    with tokens.client(tokens.app_token()) as client:
        rows: list[dict[str, object]] = [
            {
                "level": "app",
                "of": subscription.object,
                "active": subscription.active,
                "callback": subscription.callback_url,
                "fields": " ".join(sorted(subscription.fields)),
            }
            for subscription in app_subscriptions(client, app_id)
        ]
    for key, page in config.pages.items():
        with tokens.client(tokens.require(page.access_token_env)) as client:
            rows += [
                {
                    "level": "page",
                    "of": key,
                    "active": True,
                    "callback": None,
                    "fields": " ".join(sorted(subscribed.fields)),
                }
                for subscribed in page_subscriptions(client, page.page_id)
                if subscribed.app_id == app_id
            ]
    show(rows, as_json=as_json, empty="Nothing is subscribed. Run `mm webhooks subscribe`.")


@app.command()
def replay(
    since: Annotated[
        datetime,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Start time, UTC."),
    ],
    field: Annotated[str | None, typer.Option(help="Only this webhook field.")] = None,
) -> None:
    """Process stored events again. Every effect is idempotent."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.webhooks import webhook_event

    with open_database(Environment.resolve()) as database, database.transaction() as connection:
        count = webhook_event.replay(connection, since=since.replace(tzinfo=UTC), only_field=field)
    typer.echo(f"{count} events will be processed again")
