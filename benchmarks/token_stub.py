"""A Page's listing of any length on loopback: ``python -m benchmarks.token_stub TOKENS``.

Every second token was made from an audience; of the others three belong to one person, and every
fifth has expired.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE_LIMIT = 1_000

_AUDIENCE_MADE = (
    '{"notification_messages_token":"%020d","topic_title":"Updates and promotions",'
    '"notification_messages_reoptin":"ENABLED","custom_audience_ids":["123456789012345"]}'
)
_OPTED_IN = (
    '{"notification_messages_token":"%020d","recipient_id":"%016d",'
    '"topic_title":"Updates and promotions","notification_messages_reoptin":"ENABLED",'
    '"creation_timestamp":1790000000,"user_token_status":"REFRESHED",'
    '"notification_messages_timezone":"America/New_York","next_eligible_time":1790000000,'
    '"token_expiry_timestamp":%d}'
)
_LONG_AGO, _FAR_AHEAD = 1_790_000_001, 4_000_000_000


def page(after: int, tokens: int) -> bytes:
    """One answer: the tokens behind the cursor, in an order that is not the token's."""
    end = min(after + PAGE_LIMIT, tokens)
    rows = (
        _AUDIENCE_MADE % _scattered(n)
        if n % 2
        else _OPTED_IN % (_scattered(n), n // 6, _FAR_AHEAD if n % 10 else _LONG_AGO)
        for n in range(after, end)
    )
    paging = {"cursors": {"after": str(end)}, **({"next": "-"} if end < tokens else {})}
    return f'{{"data":[{",".join(rows)}],"paging":{json.dumps(paging)}}}'.encode()


def _scattered(number: int) -> int:
    # A multiplication by an odd number permutes the 64-bit numbers: distinct, and in no order.
    return number * 0x9E3779B97F4A7C15 % 2**64


class _Listing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: apart, each answer waits 40 ms for the head's acknowledgement.
    wbufsize = -1
    tokens = 0

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        filtered = "opt_in_source" in query or "custom_audience_ids" in query
        body = page(int(query.get("after", ["0"])[0]), 0 if filtered else self.tokens)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def main(tokens: int) -> None:
    _Listing.tokens = tokens
    with ThreadingHTTPServer(("127.0.0.1", 0), _Listing) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
