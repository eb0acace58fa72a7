"""`mm erase`: erases a person and prints the receipt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import encode, fail, show

if TYPE_CHECKING:
    from mm_pipelines.config import Config
    from mm_pipelines.warehouse.database import Database


def erase(
    email: Annotated[str | None, typer.Option(help="As written, or its SHA-256.")] = None,
    phone: Annotated[
        str | None, typer.Option(help="With its country code, or its SHA-256.")
    ] = None,
    page: Annotated[
        str | None, typer.Option(help="The Page of --psid or --token, by its key in mm.yaml.")
    ] = None,
    psid: Annotated[str | None, typer.Option(help="Page-scoped ID.")] = None,
    token: Annotated[str | None, typer.Option(help="Subscription token.")] = None,
    receipt: Annotated[
        int | None, typer.Option(help="Print the receipt of an earlier erasure, by its number.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Erase a person from every table, ask Meta to do the same, and print the receipt.

    The value - is read from standard input, so that neither the shell's history nor `ps` shows it.
    Pages and Custom Audiences are asked by the running stack; print the receipt again with
    --receipt to see when each accepted the request.
    """
    from mm_pipelines.consent.erasure import erase as erasing
    from mm_pipelines.consent.erasure import requests
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.storage import Storage
    from mm_pipelines.suppression.keys import SuppressionKeyError

    given = {"email": email, "phone": phone, "psid": psid, "token": token}
    named = {
        kind: (sys.stdin.readline() if value == "-" else value).strip()
        for kind, value in given.items()
        if value is not None
    }
    environment = Environment.resolve()
    config = environment.config()
    page_id = _page_id(config, page) if "psid" in named or "token" in named else None
    if receipt is None and not any(named.values()):
        fail("name the person with --email, --phone, --psid or --token")
    with open_database(environment) as database:
        if receipt is None:
            with database.transaction() as connection:
                receipt = requests.receive(connection, page_id=page_id, **named)
            plan = erasing.ErasurePlan.of(config, environment.suppression_keys())
            try:
                erasing.erase(database, Storage(environment.storage_url), plan, only=receipt)
            except SuppressionKeyError as error:
                fail(str(error))
        _print_receipt(database, receipt, as_json=as_json)


def _page_id(config: Config, page: str | None) -> str:
    if page not in config.pages:
        fail(f"--psid and --token need --page, one of {', '.join(config.pages)}")
    return config.pages[page].page_id


def _print_receipt(database: Database, number: int, *, as_json: bool) -> None:
    from mm_pipelines.consent.erasure import receipts, requests

    with database.transaction() as connection:
        found = requests.find(connection, number)
        entries = receipts.receipt(connection, number)
    if found is None:
        fail(f"there is no erasure {number}")
    state, why = found
    rows: list[dict[str, Any]] = [vars(entry) for entry in entries]
    if as_json:
        typer.echo(encode({"erasure": number, "state": state, "why": why, "receipt": rows}))
        return
    if state == "rejected":
        fail(f"erasure {number} was rejected: {why}")
    typer.echo(f"erasure {number}: {state}")
    show(rows, as_json=False, empty="Nothing of this person was found.")
    if state != "completed":
        typer.echo(f"Open entries follow Meta's answers: mm erase --receipt {number}")
