"""The output of commands: tables, JSON, and errors without a traceback."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

Rows = Sequence[Mapping[str, object]]

_WIDE = 1_000


class Commands(TyperGroup):
    """The `mm` command; an expected error ends it with one message and exit code 1."""

    def invoke(self, ctx: Any) -> Any:  # Typer does not export the type
        """Run the command that the arguments name."""
        from sqlalchemy.exc import OperationalError

        from mm_pipelines.config import ConfigError
        from mm_pipelines.delivery.errors import DeliveryError
        from mm_pipelines.graph_api.errors import GraphApiError
        from mm_pipelines.local.errors import LocalError
        from mm_pipelines.warehouse.database import DatabaseUrlError, LockTakenError

        try:
            return super().invoke(ctx)
        except (
            ConfigError,
            DatabaseUrlError,
            DeliveryError,
            GraphApiError,
            LocalError,
            LockTakenError,
        ) as error:
            fail(str(error))
        except OperationalError as error:
            # The driver's own sentence names host and user; SQLAlchemy's adds the statement.
            fail(f"the database does not answer: {str(error.orig).strip()}")


def fail(message: str) -> NoReturn:
    """Print the error and exit with code 1."""
    typer.echo(f"mm: {message}", err=True)
    raise typer.Exit(1)


def show(rows: Rows, *, as_json: bool, empty: str) -> None:
    """Print rows as a table, or as a JSON array; `empty` is printed if there are none."""
    if as_json:
        typer.echo(encode(rows))
        return
    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        right = isinstance(value, int | float)
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for row in rows:
        # Text, because a string may contain what Rich reads as markup.
        table.add_row(*(Text(_readable(value)) for value in row.values()))
    # A pipe has no width, so that a reader gets every column in full.
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def encode(known: object) -> str:
    """Plain values as JSON."""
    return json.dumps(known, indent=2, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _readable(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)
