"""`mm doctor`: checks the installation and its access to Meta, one line per check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.access_tokens import Tokens, ad_accounts
from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import show

if TYPE_CHECKING:
    from mm_pipelines.config import Config, Page
    from mm_pipelines.local.environment import Environment

_EXPIRES_SOON = timedelta(days=14)
_PROBE = "doctor/probe.txt"


class _CheckError(Exception):
    """A check failed. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    ok: bool
    detail: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check tokens, API version, webhook subscriptions, database and storage.

    The exit code is 1 if a check fails.
    """
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    findings = list(_examine(environment, environment.config()))
    rows = [asdict(finding) for finding in findings]
    if not as_json:
        rows = [row | {"ok": "ok" if row["ok"] else "NOT OK"} for row in rows]
    show(rows, as_json=as_json, empty="")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _examine(environment: Environment, config: Config) -> Iterator[Finding]:
    from mm_pipelines.graph_api.access_tokens import PAGE_SCOPES, SYSTEM_USER_SCOPES

    tokens = Tokens(environment)
    yield _look("database", partial(_database, environment))
    yield _look("storage", partial(_storage, environment))
    yield _look("Graph API", partial(_version, tokens, environment))
    accounts = ad_accounts(config)
    for name in sorted({name for _, name in accounts}):
        yield _look(f"token {name}", partial(_token, tokens, name, SYSTEM_USER_SCOPES))
    for ad_account_id, name in accounts:
        subject = f"ad account {ad_account_id} with {name}"
        yield _look(subject, partial(_ad_account, tokens, ad_account_id, name))
    for page in config.pages.values():
        name = page.access_token_env
        yield _look(f"token {name}", partial(_token, tokens, name, PAGE_SCOPES))
    yield _look("webhooks of the app", partial(_app_webhooks, tokens))
    for key, page in config.pages.items():
        yield _look(f"webhooks of Page {key}", partial(_page_webhooks, tokens, page))


def _look(subject: str, examine: Callable[[], str]) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    from mm_pipelines.graph_api.errors import GraphApiError
    from mm_pipelines.local.postgres import PostgresError

    try:
        return Finding(subject, ok=True, detail=examine())
    except (_CheckError, GraphApiError, PostgresError, ValueError, OSError) as error:
        return Finding(subject, ok=False, detail=str(error))
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        return Finding(subject, ok=False, detail=str(cause).strip())


def _database(environment: Environment) -> str:
    from mm_pipelines.warehouse import migrate

    with open_database(environment) as database:
        revision, newest = migrate.current(database), migrate.head()
        if revision != newest:
            raise _CheckError(
                f"is at revision {revision}, this version needs {newest}: mm db upgrade"
            )
        return f"{database.masked_url}, revision {revision}"


def _storage(environment: Environment) -> str:
    from mm_pipelines.storage import Storage, without_credentials

    storage = Storage(environment.storage_url)
    storage.replace(_PROBE, _write_probe)
    storage.delete(_PROBE)
    return f"{without_credentials(environment.storage_url)} can be written"


def _write_probe(path: Path) -> None:
    path.write_text("written by mm doctor")


def _version(tokens: Tokens, environment: Environment) -> str:
    from mm_pipelines.graph_api.access_tokens import debug_token

    with tokens.client(_app_token(tokens)) as client:
        debug_token(client, _app_token(tokens))
        used = client.version_used
    if used is not None and used != environment.graph_api_version:
        raise _CheckError(
            f"{environment.graph_api_version} was answered as {used}: set MM_GRAPH_API_VERSION to "
            "a version that Meta still supports"
        )
    return f"{environment.graph_api_url} answers as {used or environment.graph_api_version}"


def _token(tokens: Tokens, name: str, scopes: frozenset[str]) -> str:
    from mm_pipelines.graph_api.access_tokens import debug_token

    with tokens.client(_app_token(tokens)) as client:
        info = debug_token(client, _variable(tokens, name))
    if not info.is_valid:
        raise _CheckError(f"is not valid ({info.error or 'no reason given'}): create a new one")
    missing = scopes - info.scopes
    if missing:
        raise _CheckError(f"lacks {', '.join(sorted(missing))}: grant it, and create a new token")
    ends_at = info.ends_at
    if ends_at and ends_at < datetime.now(UTC) + _EXPIRES_SOON:
        raise _CheckError(f"expires at {ends_at:%Y-%m-%d %H:%M} UTC: create a new one")
    until = f"until {ends_at:%Y-%m-%d}" if ends_at else "without expiry"
    return f"{info.kind or 'token'}, valid {until}, {', '.join(sorted(info.scopes))}"


def _ad_account(tokens: Tokens, ad_account_id: str, name: str) -> str:
    """A token may be valid, with every permission, and not be given this ad account."""
    from mm_pipelines.graph_api.custom_audiences import list_custom_audiences

    with tokens.client(_variable(tokens, name)) as client:
        found = next(list_custom_audiences(client, ad_account_id), None)
    return "its audiences can be read" if found else "can be read, and has no audience yet"


def _app_webhooks(tokens: Tokens) -> str:
    from mm_pipelines.graph_api.subscriptions import PAGE_FIELDS, app_subscriptions

    app_id = _variable(tokens, "MM_APP_ID")
    with tokens.client(_app_token(tokens)) as client:
        subscriptions = app_subscriptions(client, app_id)
    mine = [found for found in subscriptions if found.object == "page" and found.active]
    fields = frozenset[str]().union(*(found.fields for found in mine))
    _require_fields(frozenset(PAGE_FIELDS) - fields)
    return f"{len(PAGE_FIELDS)} fields to {mine[0].callback_url}"


def _page_webhooks(tokens: Tokens, page: Page) -> str:
    from mm_pipelines.graph_api.subscriptions import PAGE_FIELDS, page_subscriptions

    app_id = _variable(tokens, "MM_APP_ID")
    with tokens.client(_variable(tokens, page.access_token_env)) as client:
        apps = page_subscriptions(client, page.page_id)
    fields = frozenset[str]().union(*(found.fields for found in apps if found.app_id == app_id))
    _require_fields(frozenset(PAGE_FIELDS) - fields)
    return f"{len(PAGE_FIELDS)} fields"


def _require_fields(missing: frozenset[str]) -> None:
    if missing:
        raise _CheckError(f"not subscribed to {', '.join(sorted(missing))}: mm webhooks subscribe")


def _app_token(tokens: Tokens) -> str:
    return f"{_variable(tokens, 'MM_APP_ID')}|{_variable(tokens, 'MM_APP_SECRET')}"


def _variable(tokens: Tokens, name: str) -> str:
    value = tokens.get(name)
    if value is None:
        raise _CheckError(f"{name} is not set")
    return value
