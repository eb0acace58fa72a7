"""The output of commands: tables, JSON, and errors without a traceback."""

import errno
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
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
        from mm_pipelines.warehouse.pooler import PoolerError

        try:
            return super().invoke(ctx)
        except (
            ConfigError,
            DatabaseUrlError,
            DeliveryError,
            GraphApiError,
            LocalError,
            LockTakenError,
            PoolerError,
        ) as error:
            fail(str(error))
        except OperationalError as error:
            # The driver's own sentence names host and user; SQLAlchemy's adds the statement.
            fail(f"the database does not answer: {str(error.orig).strip()}")
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(error.name or "")
            if extra is None:
                raise
            fail(f"this command needs the extra `{extra}`: pip install 'mm_pipelines[{extra}]'")
        except OSError as error:
            fail(_about_files(error))


def fail(message: str) -> NoReturn:
    """Print the error and exit with code 1."""
    typer.echo(f"mm: {message}", err=True)
    raise typer.Exit(1)


# The extra that each optional library belongs to.
_EXTRAS = {"psutil": "local", "dagster_webserver": "local", "httptools": "sandbox"}

_FULL = (errno.ENOSPC, errno.EDQUOT)


def _about_files(error: OSError) -> str:
    """A file cannot be read or written, and what to do."""
    place = error.filename or "a file"
    reason = (error.strerror or type(error).__name__).lower()
    if error.errno in _FULL:
        return (
            f"{place}: {reason}. Free some space, or set MM_HOME (state) and MM_STORAGE_URL "
            "(files) to another disk."
        )
    return (
        f"{place}: {reason}. Run as the user who owns it, or set MM_HOME (state) and "
        "MM_STORAGE_URL (files) to folders of yours."
    )


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show at a terminal what a long command does, and for how long; a pipe shows nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield


def show(rows: Rows, *, as_json: bool, empty: str, width: int | None = None) -> None:
    """Print rows as a table, or as a JSON array.

    Args:
        rows: All with the same keys, the most important first.
        as_json: Print a JSON array with every column.
        empty: Printed if there are no rows.
        width: Columns that do not fit are left out by name. By default the terminal's width; a pipe
            has none, so that a reader gets every column in full.
    """
    if as_json:
        typer.echo(encode(rows))
        return
    if not rows:
        typer.echo(empty)
        return
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    console = Console(width=width or _WIDE)
    names = list(rows[0])
    shown = len(names)
    unlimited = console.options.update(max_width=_WIDE)
    while shown > 1 and (
        console.measure(_table(rows, names[:shown]), options=unlimited).maximum > console.width
    ):
        shown -= 1
    console.print(_table(rows, names[:shown]))
    if shown < len(names):
        left_out = ", ".join(name.replace("_", " ") for name in names[shown:])
        typer.echo(textwrap.fill(f"Left out for lack of width: {left_out}", console.width))


def _table(rows: Rows, names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        right = isinstance(rows[0][name], int | float)
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for row in rows:
        # Text, because a string may contain what Rich reads as markup.
        table.add_row(*(Text(_readable(row[name])) for name in names))
    return table


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
