"""`mm init`: writes a first mm.yaml from a few answers."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mm_pipelines.cli.output import fail

if TYPE_CHECKING:
    from mm_pipelines.config import Config, ConfigError

_QUESTIONS = {
    "page": ("Page: a short key of your choice", "acme"),
    "page_id": ("Page: its id at Meta", None),
    "ad_account_id": ("Ad account: its id, with or without act_", None),
    "audience": ("Audience: a short key of your choice", "acme_newsletter"),
    "name": ("Audience: its name at Meta", "Acme newsletter"),
    "description": ("Audience: who its people are", "Customers who agreed to marketing messages"),
    "default_country": ("Country of phone numbers without a country code", "US"),
    "path": ("Daily lists, with {audience} and {day}", "customers/{audience}/{day}.csv"),
    "timezone": ("Time zone of the days", "UTC"),
}


def init() -> None:
    """Write a first mm.yaml by asking for a Page, an ad account and a list.

    Nothing is written before the answers are valid; an existing file is not changed.
    """
    from mm_pipelines.config import ConfigError, config_path

    path = config_path()
    if path.exists():
        fail(f"{path} exists already. Edit it and run `mm config check`.")
    if not os.access(path.absolute().parent, os.W_OK):
        fail(f"{path} cannot be written. Set MM_CONFIG to a path in a folder of yours.")
    answers = {name: default for name, (_, default) in _QUESTIONS.items()}
    while True:
        for name, (question, _) in _QUESTIONS.items():
            answers[name] = typer.prompt(question, default=answers[name])
        try:
            config = _write(path, answers)
        except ConfigError as error:
            typer.secho(f"\n{_faults(error)}\nEnter keeps an answer.\n", fg="yellow", err=True)
        else:
            break
    typer.echo(f"\nwrote {path}. Next:")
    for variable in config.token_variables():
        typer.echo(f"  export {variable}=…   the access token")
    typer.echo("  mm config check       checks mm.yaml and the environment")
    typer.echo("  mm doctor             checks the tokens and the webhooks at Meta")


def _faults(error: ConfigError) -> str:
    """The faults by key, without the draft's name and lines."""
    return "\n".join(f"{fault.place.split(', ', 2)[-1]}: {fault.message}" for fault in error.faults)


def _write(path: Path, answers: dict[str, str | None]) -> Config:
    """Check the answers as mm.yaml, and write them if they are valid."""
    import yaml

    from mm_pipelines.config import load_config

    page = str(answers["page"])
    audience = {
        "page": page,
        "ad_account_id": answers["ad_account_id"],
        "name": answers["name"],
        "description": answers["description"],
        "default_country": answers["default_country"],
        "source": {"path": answers["path"]},
    }
    document = {
        "start_date": f"{datetime.now(UTC):%Y-%m-%d}",
        "timezone": answers["timezone"],
        "pages": {
            page: {
                "page_id": answers["page_id"],
                "access_token_env": f"{page.upper()}_PAGE_TOKEN",
            }
        },
        "audiences": {answers["audience"]: audience},
    }
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(
        "# Every key: docs/configuration.md, or `mm config reference`.\n"
        + yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    try:
        config = load_config(draft)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return config
