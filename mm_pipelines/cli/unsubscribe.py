"""`mm unsubscribe`: records an opt-out from a Page."""

import json
import sys
from typing import Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail
from mm_pipelines.cli.selection import require_page


def unsubscribe(
    page: Annotated[str, typer.Option(help="The Page, by its key in mm.yaml.")],
    email: Annotated[str | None, typer.Option(help="As written, or its SHA-256.")] = None,
    phone: Annotated[
        str | None, typer.Option(help="With its country code, or its SHA-256.")
    ] = None,
    psid: Annotated[str | None, typer.Option(help="Page-scoped ID.")] = None,
    token: Annotated[str | None, typer.Option(help="Subscription token.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Record an opt-out; `unsubscribe_sensor` requests the run that carries it out.

    A person named by PSID or token stops being sendable before this command ends. The value - is
    read from standard input, so that neither the shell's history nor `ps` shows it.
    """
    from mm_pipelines.consent import opt_out_requests
    from mm_pipelines.consent.opt_out_requests import NewRequest
    from mm_pipelines.local.environment import Environment

    email, phone, psid, token = (_given(value) for value in (email, phone, psid, token))
    if not any(value and value.strip() for value in (email, phone, psid, token)):
        fail("name the person with --email, --phone, --psid or --token")
    named = NewRequest(phone=phone, email=email, psid=psid, subscriber_token=token)
    environment = Environment.resolve()
    page_id = require_page(environment, page).page_id
    with open_database(environment) as database, database.transaction() as connection:
        opt_out_requests.receive(connection, page_id, [named], "command")
        waiting = sum(
            known.requests
            for known in opt_out_requests.counts(connection, page_id)
            if known.state in ("received", "sent")
        )
    if as_json:
        typer.echo(json.dumps({"page": page, "recorded": 1, "open": waiting}))
    else:
        typer.echo(f"recorded; {waiting:,} opt-outs from {page} are open")


def _given(value: str | None) -> str | None:
    return sys.stdin.readline().strip() if value == "-" else value
