"""`mm consent`: consent that arrives outside Messenger."""

import json
import sys
from typing import Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail

app = typer.Typer(help="Record consent that people give outside Messenger.")


@app.callback()
def consent() -> None:
    """Keep `grant` a subcommand while it is the only one."""


@app.command()
def grant(
    reason: Annotated[str, typer.Option(help="Why, such as the form the person signed.")],
    page: Annotated[
        str | None, typer.Option(help="The Page, by its key in mm.yaml; for --psid and --token.")
    ] = None,
    email: Annotated[str | None, typer.Option(help="Raw, or its SHA-256.")] = None,
    phone: Annotated[
        str | None, typer.Option(help="With its country code, or its SHA-256.")
    ] = None,
    psid: Annotated[str | None, typer.Option(help="Page-scoped ID.")] = None,
    token: Annotated[str | None, typer.Option(help="Subscription token.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Lift the suppression of one person, with a reason that is recorded.

    A value given as - is read from standard input, so that neither the shell's history nor `ps`
    shows it. The unsubscription at Meta stays until the person opts in there again.
    """
    from mm_pipelines.consent.grants import GrantError, grant_by_contact, grant_by_identifier
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.suppression.keys import SuppressionKeyError

    given = {"email": email, "phone": phone, "psid": psid, "token": token}
    named = {
        kind: (sys.stdin.readline() if value == "-" else value).strip()
        for kind, value in given.items()
        if value is not None
    }
    if len(named) != 1 or not all(named.values()):
        fail("give exactly one of --email, --phone, --psid or --token")
    if not reason.strip():
        fail("--reason is blank. Say why the suppression is lifted.")
    environment = Environment.resolve()
    key = environment.suppression_keys()
    ((kind, value),) = named.items()
    with open_database(environment) as database:
        if kind == "psid" or kind == "token":
            pages = environment.config().pages
            if page not in pages:
                fail(f"--{kind} needs --page, one of {', '.join(pages)}")
            try:
                lifted = grant_by_contact(
                    database,
                    pages[page].page_id,
                    kind,
                    value,
                    reason=reason,
                    suppression_keys=key,
                )
            except SuppressionKeyError as error:
                fail(str(error))
        elif kind == "email" or kind == "phone":
            try:
                lifted = grant_by_identifier(
                    database, key, kind, value, reason=reason, default_country=None
                )
            except (GrantError, SuppressionKeyError) as error:
                fail(str(error))
    if as_json:
        typer.echo(json.dumps({"lifted": lifted}))
    else:
        typer.echo("the suppression is lifted" if lifted else "the person was not suppressed")
