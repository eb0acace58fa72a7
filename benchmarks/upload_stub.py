"""A Graph API that takes any batch at once: only the sender is measured. ``upload_stub PORT``."""

import asyncio
import json
import re
import sys

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_SEQ = re.compile(rb'"batch_seq": ?(\d+)')
_TAIL = 300


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            break
        found = _LENGTH.search(head)
        left = int(found[1]) if found else 0
        tail = b""
        while left:
            chunk = await reader.read(min(left, 1 << 20))
            left -= len(chunk)
            tail = (tail + chunk)[-_TAIL:]
        seq = _SEQ.search(tail)
        received = 10_000 * int(seq[1]) if seq else 0
        body = json.dumps(
            {"audience_id": "1", "num_received": received, "num_invalid_entries": 0, "data": []}
        ).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        await writer.drain()
    writer.close()


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
