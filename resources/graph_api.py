"""The Graph API as a Dagster resource: which token is whose, and clients that use it."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.partitions import CONFIG


class GraphApiResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Clients of the Graph API, each with the token of one ad account or Page.

    The tokens stay in the environment: mm.yaml names the variables, and each is read when its
    client is made, so that a run needs its own token only.
    """

    base_url: str = Field(description="The Graph API's address, as MM_GRAPH_API_URL has it")
    version: str = Field(description="Such as v26.0, as MM_GRAPH_API_VERSION has it")

    @contextmanager
    def client_for_audience(self, audience: str) -> Iterator[GraphApiClient]:
        """A client with the system user's token of the audience's ad account."""
        with self._client(CONFIG.audiences[audience].system_user_token_env) as client:
            yield client

    @contextmanager
    def client_for_page(self, page: str) -> Iterator[GraphApiClient]:
        """A client with the Page's token."""
        with self._client(CONFIG.pages[page].access_token_env) as client:
            yield client

    def _client(self, variable: str) -> GraphApiClient:
        token = dg.EnvVar(variable).get_value()
        if not token:
            raise dg.Failure(
                f"{variable} is not set: it must hold the access token that mm.yaml refers to; "
                "set it where Dagster runs, then run this again",
                allow_retries=False,
            )
        return GraphApiClient(
            token,
            base_url=self.base_url,
            version=self.version,
            app_secret=dg.EnvVar("MM_APP_SECRET").get_value(),
        )
