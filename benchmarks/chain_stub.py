"""A Graph API on loopback that takes any batch and lists tokens: ``chain_stub TOKENS``.

The listing is built before it serves, so that its Python does not compete with what is measured.
"""

import asyncio
import json
import re
import sys
from urllib.parse import parse_qs, urlsplit

from benchmarks.token_stub import PAGE_LIMIT, page

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_SEQ = re.compile(rb'"batch_seq": ?(\d+)')
_TAIL = 300
_EMPTY = b'{"data":[]}'


class _Stub:
    def __init__(self, tokens: int) -> None:
        self._pages = {start: page(start, tokens) for start in range(0, tokens, PAGE_LIMIT)}

    async def serve(self) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=1 << 20)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionResetError):
                break
            tail = await _read_tail(reader, head)
            method, target = head.split(b" ", 2)[:2]
            body = self._get(target.decode()) if method == b"GET" else _post(target, tail)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
                + str(len(body)).encode()
                + b"\r\n\r\n"
                + body
            )
            await writer.drain()
        writer.close()

    def _get(self, target: str) -> bytes:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        is_listing = parts.path.endswith("/notification_message_tokens")
        if not is_listing or "opt_in_source" in query or "custom_audience_ids" in query:
            return _EMPTY
        return self._pages[int(query.get("after", ["0"])[0])]


async def _read_tail(reader: asyncio.StreamReader, head: bytes) -> bytes:
    found = _LENGTH.search(head)
    left = int(found[1]) if found else 0
    tail = b""
    while left:
        chunk = await reader.read(min(left, 1 << 20))
        left -= len(chunk)
        tail = (tail + chunk)[-_TAIL:]
    return tail


def _post(target: bytes, tail: bytes) -> bytes:
    if not target.split(b"?")[0].endswith(b"/users"):
        return b'{"id":"1"}'
    seq = _SEQ.search(tail)
    received = 10_000 * int(seq[1]) if seq else 0
    return json.dumps(
        {"audience_id": "1", "num_received": received, "num_invalid_entries": 0}
    ).encode()


if __name__ == "__main__":
    asyncio.run(_Stub(int(sys.argv[1])).serve())
