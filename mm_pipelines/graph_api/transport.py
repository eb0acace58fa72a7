"""Sends one request over HTTP and maps httpx errors to GraphApiError."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httpx

from mm_pipelines.graph_api.answer import Answer
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.errors import AmbiguousOutcomeError, PermanentError, TransientError
from mm_pipelines.graph_api.redaction import redact_httpx_log

# Meta may take long for 10,000 rows, but not for a connection.
_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=16)

# Nothing was sent, so the call was certainly not carried out.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def is_http_address(url: str) -> bool:
    """Whether an address is a valid http address. httpx finds some faults only at a call."""
    try:
        httpx.URL(url)
        parts = urlsplit(url)
        port_is_possible = parts.port != 0
    except (httpx.InvalidURL, ValueError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_possible


class HttpTransport:
    """Connections to one version of the Graph API, with one access token; thread-safe.

    Args:
        base_url: With the version.
        access_token: Sent in the `Authorization` header of every call.
        transport: By default HTTP/1.1 over the network. HTTP/2 costs ten times the CPU for bodies
            of this size.

    Raises:
        PermanentError: The base URL is not an http address.
    """

    def __init__(
        self, base_url: str, access_token: str, *, transport: httpx.BaseTransport | None
    ) -> None:
        if not is_http_address(base_url):
            # Not quoted: an address may contain a password.
            raise PermanentError(
                "The base URL of the Graph API is not an http address",
                next_step="Set MM_GRAPH_API_URL to an http:// or https:// address, or unset it.",
            )
        redact_httpx_log()
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {access_token}", "User-Agent": "mm_pipelines"},
            timeout=_TIMEOUT,
            limits=_LIMITS,
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def exchange(
        self, method: str, path: str, query: Mapping[str, str], body: Sequence[bytes] | None
    ) -> Answer:
        """Send one request and read its whole answer, whatever its status.

        Raises:
            TransientError: Nothing could be sent.
            AmbiguousOutcomeError: The connection failed; the call may have been carried out.
            UnreadableAnswerError: The answer cannot be decompressed.
        """
        headers = {}
        if body is not None:
            # Without a length, httpx would send the pieces chunked.
            length = str(sum(map(len, body)))
            headers = {"Content-Type": "application/json", "Content-Length": length}
        try:
            response = self._http.request(
                method, path, params=dict(query), content=body, headers=headers
            )
        except _NEVER_SENT as error:
            raise TransientError(
                f"The Graph API cannot be reached ({type(error).__name__})"
            ) from None
        except httpx.DecodingError:
            raise unreadable("its compression is broken") from None
        except httpx.TransportError as error:
            # Its text may quote bytes of the answer, so only its type is shown.
            raise AmbiguousOutcomeError(
                f"The connection failed before the answer ({type(error).__name__})"
            ) from None
        return Answer(response.status_code, response.content, response.headers)
