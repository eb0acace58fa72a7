"""`mm sandbox`: the sandbox of the Graph API alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.local.ports import HOST, SANDBOX_PORT

if TYPE_CHECKING:
    from mm_pipelines.sandbox.settings import Settings


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = SANDBOX_PORT,
    webhook_url: Annotated[
        str | None, typer.Option(help="The receiver; default: the callback that is subscribed.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File to keep its state in; default: in memory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the matching.")] = None,
    match_rate: Annotated[float | None, typer.Option(help="Share of people matched.")] = None,
    match_delay: Annotated[float | None, typer.Option(help="Seconds until a match.")] = None,
) -> None:
    """Start a local stand-in for the Graph API.

    It knows the tokens, the app secret and the verify token in the environment, as mm.yaml names
    them. Without any token there, every token is accepted.
    """
    from mm_pipelines.sandbox.server import run

    options: dict[str, object] = {
        "webhook_url": webhook_url,
        "state_file": state,
        "seed": seed,
        "match_rate": match_rate,
        "match_delay_seconds": match_delay,
    }
    given = {name: value for name, value in options.items() if value is not None}
    run(host, port, _settings(given))


def _settings(options: dict[str, object]) -> Settings:
    from mm_pipelines.config import config_path, load_config
    from mm_pipelines.sandbox.settings import Settings

    names = {
        "app_id": "MM_APP_ID",
        "app_secret": "MM_APP_SECRET",
        "webhook_verify_token": "MM_WEBHOOK_VERIFY_TOKEN",
    }
    values: dict[str, object] = {
        field: os.environ[name] for field, name in names.items() if os.environ.get(name)
    }
    path = config_path()
    if path.exists():
        config = load_config(path)
        system_users = {audience.system_user_token_env for audience in config.audiences.values()}
        values["system_user_tokens"] = [
            os.environ[name] for name in sorted(system_users) if os.environ.get(name)
        ]
        values["page_tokens"] = {
            page.page_id: os.environ[page.access_token_env]
            for page in config.pages.values()
            if os.environ.get(page.access_token_env)
        }
        accounts: dict[str, list[str]] = {}
        for key, audience in config.audiences.items():
            pages = accounts.setdefault(audience.ad_account_id, [])
            pages.append(config.page_of(key).page_id)
        if values["system_user_tokens"] or values["page_tokens"]:
            values["ad_accounts"] = accounts
    return Settings.model_validate(values | options)
