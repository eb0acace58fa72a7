"""Sentences about failed queries, made from the driver's message without the values in it."""

import re
from dataclasses import dataclass

_NAME = r"[\"'`]?([\w.]+)[\"'`]?"
# The first pattern that matches decides. Only names of columns and tables are repeated.
_SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the query took longer than {minutes:g} minutes (timeout_minutes)", ("statement timeout",)),
    (
        "the database refuses the user or the password in {env}",
        ("password authentication failed", "no password supplied", "access denied"),
    ),
    (
        "the connection was lost while the rows were read",
        (
            "server closed the connection",
            "terminating connection",
            "connection (?:was )?(?:lost|reset|already closed)",
            "ssl syscall",
            "eof detected",
            "broken pipe",
        ),
    ),
    ("the database in {env} does not exist", (f"database {_NAME} does not exist",)),
    (
        "the database cannot be reached; check the address in {env} and the network",
        (
            "could not translate host",
            "name or service not known",
            "connection refused",
            "timeout expired",
            "(?:failed|could not|can't) (?:to )?connect",
            "no route to host",
        ),
    ),
    (
        "the database file in {env} cannot be opened",
        ("unable to open database", "failed to open", "cannot open (?:file|database)", "io error"),
    ),
    (
        "there is no column {name}",
        (
            f"no such column:? {_NAME}",
            f"unknown column {_NAME}",
            f"column {_NAME} (?:does not exist|not found)",
        ),
    ),
    (
        "there is no table {name}",
        (f"no such table:? {_NAME}", f"(?:relation|table with name) {_NAME} does not exist"),
    ),
    (
        "the user in {env} may not read {name}; grant SELECT and USAGE",
        (f"permission denied for (?:table|relation|view|schema) {_NAME}",),
    ),
    ("the memory is not enough to run the query; try it without an order", ("out of memory",)),
    ("the query writes; it must be a SELECT", ("read-?only", "data-modifying")),
    ("the query has a syntax error", ("syntax error", "parser error")),
    (
        "the query compares two types; cast the column or the parameter",
        ("operator does not exist", "cannot compare values"),
    ),
    (
        "a value cannot be converted to the type that the query asks for",
        (
            "invalid input syntax",
            "conversion error",
            "out of range",
            "could not convert",
            "invalid text",
        ),
    ),
)
_PASSING = re.compile("cannot be reached|connection was lost")
_COMPILED = [(text, re.compile("|".join(patterns), re.IGNORECASE)) for text, patterns in _SENTENCES]


@dataclass(frozen=True)
class QueryFault:
    """What went wrong with a query.

    Attributes:
        sentence: Without the driver's own text.
        passes: Whether another attempt may succeed although nothing is changed.
    """

    sentence: str
    passes: bool


def explain(error: Exception, *, connection_env: str, timeout_minutes: float) -> QueryFault:
    """Explain the error of a query.

    Args:
        error: Of a database driver, SQLAlchemy or Polars.
        connection_env: The environment variable that holds the connection.
        timeout_minutes: The time that the query may take.
    """
    message = str(error)
    for text, pattern in _COMPILED:
        found = pattern.search(message)
        if found:
            name = next((group for group in found.groups() if group), "")
            said = text.format(name=name, env=connection_env, minutes=timeout_minutes)
            return QueryFault(said, passes=_PASSING.search(text) is not None)
    state = getattr(error, "sqlstate", None)
    kind = f"SQLSTATE {state}" if state else type(error).__name__
    said = f"the query failed ({kind}); run it in the database's own client"
    return QueryFault(said, passes=False)
