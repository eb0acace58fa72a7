"""The Graph API over HTTP: one call in, one typed answer or one typed error out.

The client knows nothing of audiences or tokens; those are functions over it, one module per family
of edges.
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
from mm_pipelines.graph_api.throttle import MemoryThrottle, Throttle, Usage, parse_usage

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
        access_token: a system user's, a Page's or an app's (`APP_ID|APP_SECRET`).
        base_url: without the version.
        version: such as `v26.0`.
        app_secret: if set, every call carries `appsecret_proof`.
        throttle: the memory of the quota that this token's calls use; in this process by default.
        retries: when a failed call is made again.
        transport: what sends; HTTP/1.1 over the network by default (HTTP/2 costs ten times the
            CPU for bodies of this size).
        sleep: how to wait.

    Raises:
        ValueError: the access token cannot be one.
        PermanentError: the base URL is no address.
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
        # httpx would quote the whole header in its complaint.
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("the access token is empty or holds characters that no token has")
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
        """Make one call, again where that can help, and read its answer.

        Args:
            method: GET, POST or DELETE (with a body where there is one).
            path: below the version, without a leading slash.
            read: turns the answer into what the caller wants; what it raises of `GraphApiError`
                is handled as if the API had said it.
            params: query parameters; booleans become `true` and `false`.
            body: JSON, whole or in pieces, sent unchanged at every attempt.
            repeatable: False if doing it twice is not the same as doing it once: then a call whose
                outcome is unknown is not made again.

        Raises:
            GraphApiError: one of its kinds (see `errors`).
            ThrottledError: the wait is longer than the policy's patience; nothing was sent, or it
                was refused.
        """
        attempt = 1
        while True:
            try:
                self._wait_for_turn()
                return read(self._send(method, path, params, body))
            except GraphApiError as error:
                self._remember_refusal(error)
                wait = self._retries.wait_after(error, attempt, repeatable=repeatable)
                if wait is None:
                    raise
                logger.info("attempt %d failed and is repeated: %s", attempt, error)
            self._sleep(wait)
            attempt += 1

    def _remember_refusal(self, error: GraphApiError) -> None:
        # Without a status it is our own word, from the throttle itself.
        if isinstance(error, ThrottledError) and error.status is not None:
            self._throttle.after(Usage(100.0, error.wait_seconds, "throttled"))

    def _wait_for_turn(self) -> None:
        wait = self._throttle.before()
        while wait > 0:
            if wait > self._retries.patience:
                raise ThrottledError(
                    "The quota is nearly used up and no call was made", wait_seconds=wait
                )
            self._sleep(wait)
            # The answers of other calls came meanwhile, and one may have told to pause.
            wait = self._throttle.after_waiting()

    def _send(self, method: str, path: str, params: Params | None, body: Body | None) -> Answer:
        query = {name: _parameter(value) for name, value in (params or {}).items()}
        if self._proof:
            query["appsecret_proof"] = self._proof
        pieces = [body] if isinstance(body, bytes) else body
        return self._judge(self._http.exchange(method, path, query, pieces))

    def _judge(self, answer: Answer) -> Answer:
        """The answer if it is a success, with its usage and version remembered either way."""
        usage = parse_usage(answer.headers)
        self._notice_version(answer.headers.get("facebook-api-version"))
        error = self._error(answer, usage)
        # A refusal tells more than its headers do, and is remembered where it is caught.
        if usage is not None and not isinstance(error, ThrottledError):
            self._throttle.after(usage)
        if error is not None:
            raise error
        return answer

    def _error(self, answer: Answer, usage: Usage | None) -> GraphApiError | None:
        """The error that an answer is; None for a success, which is left unread.

        Pages of tokens are parsed in a faster way than the one here. But an error may come with
        HTTP 200.
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
        wait = usage.regain_seconds if usage else None
        return classify(replace(envelope, message=safe), answer.status, wait_seconds=wait)

    def _notice_version(self, used: str | None) -> None:
        if used is None:
            return
        with self._version_lock:
            changed, self._version_used = used != self._version_used, used
        if changed and used != self.version:
            logger.warning(
                "the Graph API answered as %s where %s was asked for: that version may be dead, "
                "set MM_GRAPH_API_VERSION",
                used,
                self.version,
            )


def _appsecret_proof(app_secret: str, access_token: str) -> str:
    return hmac.new(app_secret.encode(), access_token.encode(), hashlib.sha256).hexdigest()


def _parameter(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
