"""The Graph API over HTTP: each call returns a typed answer or raises a typed error.

The client knows nothing about audiences or tokens. Those are functions over it, one module per
family of edges.
"""

import hashlib
import hmac
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mm_pipelines.graph_api.answer import Answer, as_document
from mm_pipelines.graph_api.classification import ErrorEnvelope, classify, without_envelope
from mm_pipelines.graph_api.errors import GraphApiError, ThrottledError, UnreadableAnswerError
from mm_pipelines.graph_api.redaction import redact
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.throttle import MemoryThrottle, Throttle, parse_usage

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, str | int | bool]
Body = bytes | Sequence[bytes]

DEFAULT_BASE_URL = "https://graph.facebook.com"
DEFAULT_VERSION = "v26.0"

_STARTS_AS_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')


class GraphApiClient:
    """A client of one version of the Graph API with one access token; thread-safe.

    Use it as a context manager, or `close()` it.

    Args:
        access_token: A system user's, a Page's or an app's (`APP_ID|APP_SECRET`).
        base_url: Without the version.
        version: Such as `v26.0`.
        app_secret: If set, every call has an `appsecret_proof`.
        throttle: The quotas of this token's calls; by default remembered in this process.
        retries: When a failed call is repeated, and how long a call waits for quotas.
        transport: By default HTTP/1.1 over the network. HTTP/2 costs ten times the CPU for bodies
            of this size.
        sleep: Waits for some seconds.

    Raises:
        ValueError: The access token is empty or has characters that no token has.
        PermanentError: The base URL is not an http address.
    """

    def __init__(
        self,
        access_token: str,
        *,
        base_url: str = DEFAULT_BASE_URL,
        version: str = DEFAULT_VERSION,
        app_secret: str | None = None,
        throttle: Throttle | None = None,
        retries: RetryPolicy | None = None,
        transport: "httpx.BaseTransport | None" = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        token = access_token.strip()
        # httpx would quote the whole header in its error.
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("the access token is empty or has characters that no token has")
        self.version = version
        self._secrets = (token, app_secret or "")
        self._proof = _appsecret_proof(app_secret, token) if app_secret else None
        self._throttle = throttle or MemoryThrottle()
        self._retries = retries or RetryPolicy()
        self._sleep = sleep
        self._version_used: str | None = None
        self._version_lock = threading.Lock()
        # httpx takes a tenth of a second to import, and most processes of the code location never
        # make a call.
        from mm_pipelines.graph_api.transport import HttpTransport

        self._url = f"{base_url.rstrip('/')}/{version}/"
        self._http = HttpTransport(self._url, token, transport=transport)

    def __repr__(self) -> str:
        return f"GraphApiClient({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def version_used(self) -> str | None:
        """The version that last answered (`facebook-api-version`); None before any answer.

        It differs from `version` when Meta upgraded a dead one silently.
        """
        return self._version_used

    def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """Read a JSON object; raises as `request` does."""
        return self.request("GET", path, as_document, params=params)

    def request(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        params: Params | None = None,
        body: Body | None = None,
        repeatable: bool = True,
    ) -> T:
        """Make one call, repeat it if that can help, and read its answer.

        Args:
            method: GET, POST or DELETE, each with or without a body.
            path: Below the version, without a leading slash.
            read: Converts the answer. A `GraphApiError` that it raises is handled like an error of
                the API.
            params: Query parameters; booleans become `true` and `false`.
            body: JSON, whole or in pieces, sent unchanged at every attempt.
            repeatable: Whether doing it twice is the same as doing it once. If not, a call whose
                outcome is unknown is not repeated.

        Raises:
            GraphApiError: One of its kinds (see `errors`).
            ThrottledError: The wait is longer than the retry policy permits. The call was refused,
                or not made at all.
        """
        query = self._query(params)
        pieces = [body] if isinstance(body, bytes) else body
        attempt, waited = 1, 0.0
        while True:
            waited += self._wait_for_quota(path, waited)
            try:
                return self._judge(path, self._http.exchange(method, path, query, pieces), read)
            except ThrottledError as error:
                limit = self._retries.throttle_wait_limit
                if attempt >= self._retries.attempts or waited + error.wait_seconds > limit:
                    raise
                logger.info("attempt %d was throttled and is repeated: %s", attempt, error)
            except GraphApiError as error:
                wait = self._retries.wait_after(error, attempt, repeatable=repeatable)
                if wait is None:
                    raise
                logger.info("attempt %d failed and is repeated: %s", attempt, error)
                self._sleep(wait)
            attempt += 1

    def _wait_for_quota(self, path: str, already_waited: float) -> float:
        """Wait until the quotas permit a call to `path`; returns the seconds waited."""
        waited = 0.0
        left = self._retries.throttle_wait_limit - already_waited
        wait = self._throttle.before(path, left)
        while wait > 0:
            if wait > left:
                raise ThrottledError(
                    "A quota is used up or nearly so, and no call was made", wait_seconds=wait
                )
            self._sleep(wait)
            waited += wait
            left -= wait
            # Other calls were answered meanwhile, and a pause may have begun.
            wait = self._throttle.recheck_after_wait(path, left)
        return waited

    def _query(self, params: Params | None) -> dict[str, str]:
        query = {name: _parameter(value) for name, value in (params or {}).items()}
        if self._proof:
            query["appsecret_proof"] = self._proof
        return query

    def _judge(self, path: str, answer: Answer, read: Callable[[Answer], T]) -> T:
        """Read a successful answer; remember the usage and the version of any answer."""
        usages = parse_usage(answer.headers)
        self._notice_version(answer.headers.get("facebook-api-version"))
        try:
            error = self._error(answer)
            if error is not None:
                raise error
            result = read(answer)
        except ThrottledError as refusal:
            refusal.wait_seconds = self._throttle.refused(
                refusal.quota, usages, refusal.wait_seconds
            )
            raise
        except GraphApiError:
            self._throttle.observed(usages)
            raise
        self._throttle.succeeded(path, usages)
        return result

    def _error(self, answer: Answer) -> GraphApiError | None:
        """The error that an answer is; None for a success, which is left unread.

        Pages of tokens are parsed in a faster way than here, but an error may have HTTP 200.
        """
        succeeded = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
        if succeeded and not _STARTS_AS_ERROR.match(answer.raw):
            return None
        try:
            envelope = ErrorEnvelope.of(answer.document())
        except UnreadableAnswerError:
            envelope = None
        if envelope is None:
            return None if succeeded else without_envelope(answer.status)
        safe = redact(envelope.message, *self._secrets, self._proof or "")
        return classify(replace(envelope, message=safe), answer.status)

    def _notice_version(self, used: str | None) -> None:
        if used is None:
            return
        with self._version_lock:
            changed, self._version_used = used != self._version_used, used
        if changed and used != self.version:
            logger.warning(
                "the Graph API answered as %s instead of %s: that version may no longer be served. "
                "Set MM_GRAPH_API_VERSION.",
                used,
                self.version,
            )


def _appsecret_proof(app_secret: str, access_token: str) -> str:
    return hmac.new(app_secret.encode(), access_token.encode(), hashlib.sha256).hexdigest()


def _parameter(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
