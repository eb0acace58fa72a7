"""The access tokens of the environment, and Graph API clients that use them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mm_pipelines.cli.output import fail

if TYPE_CHECKING:
    from mm_pipelines.config import Config
    from mm_pipelines.graph_api.client import GraphApiClient
    from mm_pipelines.local.environment import Environment


class Tokens:
    """The tokens and secrets of one environment, by the names of their variables."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._variables: Mapping[str, str] = {**os.environ, **environment.sandbox_secrets}

    def get(self, name: str) -> str | None:
        """A variable's value; None where it is unset or empty."""
        return self._variables.get(name) or None

    def require(self, name: str) -> str:
        """A variable's value; the command ends where there is none."""
        value = self.get(name)
        if value is None:
            fail(f"{name} is not set")
        return value

    def app_token(self) -> str:
        """The app access token, `APP_ID|APP_SECRET`."""
        return f"{self.require('MM_APP_ID')}|{self.require('MM_APP_SECRET')}"

    @contextlib.contextmanager
    def client(self, token: str) -> Iterator[GraphApiClient]:
        """A client with this token."""
        from mm_pipelines.graph_api.client import GraphApiClient

        with GraphApiClient(
            token,
            base_url=self._environment.graph_api_url,
            version=self._environment.graph_api_version,
            app_secret=self.get("MM_APP_SECRET"),
        ) as client:
            yield client


def ad_accounts(config: Config) -> list[tuple[str, str]]:
    """The ad accounts of mm.yaml, each with every variable that holds a token of it."""
    return sorted(
        {
            (audience.ad_account_id, audience.system_user_token_env)
            for audience in config.audiences.values()
        }
    )
