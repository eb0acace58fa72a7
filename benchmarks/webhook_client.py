"""Meta's hand in the webhook benchmark: signed POSTs over keep-alive connections.

``python -m benchmarks.webhook_client PORT CONNECTIONS POSTS CHANGES`` prints one JSON object with
the seconds and the latency of every POST. Bodies are made and signed before the clock starts, and
the answers are read by hand: the client must not be what is measured.
"""

import asyncio
import json
import sys
import time

from mm_pipelines.webhooks.signature import HEADER, sign

SECRET = "benchmark-secret"
VERIFY_TOKEN = "benchmark-token"


def request(number: int, changes: int) -> bytes:
    """A whole HTTP request with so many upload statuses, all different."""
    value = {
        "app_id": 12313123123123,
        "page_id": 134141414124123,
        "custom_audience_id": 140984918491243,
        "ad_account_id": 12348141984909088,
        "timestamp": 1763000000,
        "num_rows": 10000,
        "business_id": 12313123123123,
        "approximate_count_upper_bound": 120,
        "batch_uploading_status": "SUCCESS",
    }
    listed = [
        {
            "field": "marketing_messages_subscriber_upload_status",
            "value": value | {"approximate_count_lower_bound": number * changes + place},
        }
        for place in range(changes)
    ]
    entry = {"id": "134141414124123", "time": time.time_ns(), "changes": listed}
    content = json.dumps({"object": "page", "entry": [entry]}).encode()
    head = (
        "POST /webhooks HTTP/1.1\r\nHost: receiver\r\nContent-Type: application/json\r\n"
        f"{HEADER}: {sign(content, SECRET)}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def post_all(port: int, requests: list[bytes], latencies: list[float]) -> None:
    """Post one after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while requests:
        content = requests.pop()
        begun = time.perf_counter()
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - begun)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
    writer.close()


async def main(port: int, connections: int, posts: int, changes: int) -> None:
    """Post everything and print what it took."""
    requests = [request(number, changes) for number in range(posts)]
    latencies: list[float] = []
    begun = time.perf_counter()
    await asyncio.gather(*(post_all(port, requests, latencies) for _ in range(connections)))
    print(json.dumps({"seconds": time.perf_counter() - begun, "latencies": latencies}))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
