"""The Graph API as a Dagster resource: which token is whose, and clients that use it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import dagster as dg
from pydantic import Field

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.partitions import CONFIG
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.warehouse.database import Database


class GraphApiResource(dg.ConfigurableResource):
    """Clients of the Graph API, each with the token of one ad account or Page.

    The tokens stay in the environment: mm.yaml names the variables, and each is read when its
    client is made, so that a run needs its own token only.
    """

    base_url: str = Field(description="The Graph API's address, as MM_GRAPH_API_URL has it")
    version: str = Field(description="Such as v26.0, as MM_GRAPH_API_VERSION has it")

    def throttle_for_audience(self, audience: str, database: Database) -> SharedThrottle:
        """The quota of the audience's ad account, shared with all other runs that use it."""
        spec = CONFIG.audiences[audience]
        token = self._token(spec.system_user_token_env)
        return SharedThrottle(database, f"ad_account:{spec.ad_account_id}", token)

    def throttle_for_page(self, page: str, database: Database) -> SharedThrottle:
        """The quota of the Page, shared with all other runs that use it."""
        spec = CONFIG.pages[page]
        return SharedThrottle(database, f"page:{spec.page_id}", self._token(spec.access_token_env))

    @contextmanager
    def client_for_audience(
        self, audience: str, throttle: SharedThrottle | None = None
    ) -> Iterator[GraphApiClient]:
        """A client with the system user's token of the audience's ad account.

        Args:
            audience: The audience's key in mm.yaml.
            throttle: From `throttle_for_audience`; it stops the other runs, too, when Meta refuses
                the token. None: this run has the quota for itself.
        """
        with self._client(CONFIG.audiences[audience].system_user_token_env, throttle) as client:
            yield client

    @contextmanager
    def client_for_page(
        self, page: str, throttle: SharedThrottle | None = None
    ) -> Iterator[GraphApiClient]:
        """A client with the Page's token; ``throttle`` as `client_for_audience` has it."""
        with self._client(CONFIG.pages[page].access_token_env, throttle) as client:
            yield client

    @contextmanager
    def _client(self, variable: str, throttle: SharedThrottle | None) -> Iterator[GraphApiClient]:
        client = GraphApiClient(
            self._token(variable),
            base_url=self.base_url,
            version=self.version,
            app_secret=dg.EnvVar("MM_APP_SECRET").get_value(),
            throttle=throttle,
        )
        with client, throttle.remembering_refusals() if throttle else nullcontext():
            yield client

    def _token(self, variable: str) -> str:
        token = dg.EnvVar(variable).get_value()
        if not token:
            raise dg.Failure(
                f"{variable} is not set: it must hold the access token that mm.yaml refers to; "
                "set it where Dagster runs, then run this again",
                allow_retries=False,
            )
        return token
