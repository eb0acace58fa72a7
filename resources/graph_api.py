"""The Graph API as a Dagster resource: clients with the token of an ad account or a Page."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import dagster as dg
from pydantic import Field

from mm_pipelines.graph_api.access_tokens import AccessTokenInfo, debug_token
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.partitions import CONFIG
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.warehouse.database import Database


class GraphApiResource(dg.ConfigurableResource):
    """Clients of the Graph API, each with the token of one ad account or Page.

    The tokens stay in the environment. mm.yaml names the variables, and each is read when its
    client is created, so a run needs only its own token.
    """

    base_url: str = Field(description="Graph API address, from MM_GRAPH_API_URL")
    version: str = Field(description="Graph API version such as v26.0, from MM_GRAPH_API_VERSION")

    def throttle_for_audience(self, audience: str, database: Database) -> SharedThrottle:
        """Return the throttle of the audience's ad account, shared by all runs that use it."""
        spec = CONFIG.audiences[audience]
        token = self._token(spec.system_user_token_env)
        return SharedThrottle(database, f"ad_account:{spec.ad_account_id}", token)

    def throttle_for_page(self, page: str, database: Database) -> SharedThrottle:
        """Return the throttle of the Page, shared by all runs that use it."""
        spec = CONFIG.pages[page]
        return SharedThrottle(database, f"page:{spec.page_id}", self._token(spec.access_token_env))

    @contextmanager
    def client_for_audience(
        self, audience: str, throttle: SharedThrottle | None = None
    ) -> Iterator[GraphApiClient]:
        """Open a client with the system user token of the audience's ad account.

        Args:
            audience: The audience's key in mm.yaml.
            throttle: From `throttle_for_audience`. It also stops the other runs when Meta refuses
                the token. Without it, calls are not throttled.
        """
        token = self._token(CONFIG.audiences[audience].system_user_token_env)
        with self._client(token, throttle) as client:
            yield client

    @contextmanager
    def client_for_page(
        self, page: str, throttle: SharedThrottle | None = None
    ) -> Iterator[GraphApiClient]:
        """Open a client with the Page's token; ``throttle`` as in `client_for_audience`."""
        with self._client(self._token(CONFIG.pages[page].access_token_env), throttle) as client:
            yield client

    def token_info(self, variable: str) -> AccessTokenInfo:
        """Ask Meta about the token in a variable, with the app's own token where it is known."""
        token = self._token(variable)
        app_id = dg.EnvVar("MM_APP_ID").get_value()
        app_secret = dg.EnvVar("MM_APP_SECRET").get_value()
        asking = f"{app_id}|{app_secret}" if app_id and app_secret else token
        try:
            with self._client(asking, None) as client:
                return debug_token(client, token)
        except TokenError as error:
            return AccessTokenInfo.invalid(str(error))

    @contextmanager
    def _client(self, token: str, throttle: SharedThrottle | None) -> Iterator[GraphApiClient]:
        client = GraphApiClient(
            token,
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
                f"{variable} is not set. mm.yaml names it as the variable of an access token. "
                "Set it in the environment of the Dagster runs, then run this again.",
                allow_retries=False,
            )
        return token
