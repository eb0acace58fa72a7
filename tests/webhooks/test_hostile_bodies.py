"""Ten thousand hostile bodies: never a 500, never a row."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator

import httpx
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings, create_app
from mm_pipelines.webhooks.signature import HEADER, sign
from tests.webhooks.meta import PREVIOUS_SECRET, SECRET, VERIFY_TOKEN, body, changes, upload_status

BODIES = 10_000
LIMIT = 64 * 1024
SIDE_BY_SIDE = 16
DRY = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e5", b"\\u0000", b"\xff", b"\x00"]


def test_hostile_bodies_are_refused_without_a_trace(database: Database) -> None:
    settings = ReceiverSettings(
        app_secrets=(SECRET, PREVIOUS_SECRET), verify_token=VERIFY_TOKEN, max_body_bytes=LIMIT
    )
    app = create_app(settings, database)

    async def attack() -> Counter[int]:
        answers: Counter[int] = Counter()
        bodies = hostile(random.Random(20261120), BODIES)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://receiver"
            ) as client,
        ):

            async def post_some() -> None:
                for content, headers in bodies:
                    answer = await client.post("/webhooks", content=content, headers=headers)
                    answers[answer.status_code] += 1

            await asyncio.gather(*(post_some() for _ in range(SIDE_BY_SIDE)))
        return answers

    answers = asyncio.run(attack())
    assert set(answers) == {400, 403, 413}
    assert answers.total() == BODIES
    with database.transaction() as connection:
        assert connection.scalar(text("select count(*) from mm.webhook_event")) == 0


def hostile(chance: random.Random, count: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Bodies with their headers: forged, cut short, oversized, deeply nested, no JSON."""
    kinds = (_forged, _cut_short, _oversized, _deep, _noise, _no_event, _soup)
    for _ in range(count):
        yield chance.choice(kinds)(chance)


def _event(chance: random.Random) -> bytes:
    return body(changes(upload_status(chance.randrange(10_000)), time=chance.randrange(2**40)))


def _signed(content: bytes) -> tuple[bytes, dict[str, str]]:
    return content, {HEADER: sign(content, SECRET)}


def _forged(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    content = _event(chance)
    true = sign(content, SECRET)
    forged = [
        sign(content, "guessed"),
        sign(content + b" ", SECRET),
        true[:-1],
        true.upper(),
        true.replace("sha256=", "sha1="),
        true + "0",
        "sha256=" + chance.randbytes(32).hex(),
    ]
    return content, {HEADER: chance.choice(forged)}


def _cut_short(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    content = _event(chance)
    return _signed(content[: chance.randrange(len(content))])


def _oversized(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    return _signed(b" " * (LIMIT + chance.randrange(1, 100)))


def _deep(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    levels = chance.choice([65, 500, 5_000, 15_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = (opening * levels + b"1" + closing * levels)[:LIMIT]
    envelope = b'{"object":"page","entry":[{"id":"1","changes":[{"field":"f","value":%s}]}]}'
    content = chance.choice([nested, envelope % nested])
    return _signed(content[:LIMIT])


def _noise(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    return _signed(b"\xff" + chance.randbytes(chance.randrange(400)))


def _no_event(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    odd: list[object] = [None, True, 1, "text", [], {}, [[]], [None], {"field": "f"}]
    documents: list[object] = [
        chance.choice(odd[:-1]),
        {"object": "page", "entry": chance.choice(odd)},
        {"object": "page", "entry": [{"id": "1", "changes": [chance.choice(odd[:-1])]}]},
        {"object": "page", "entry": [{"id": "1", "messaging": [chance.choice(odd[:6])]}]},
        {"object": chance.choice([1, [], {}]), "entry": [{"changes": [{"field": "f"}]}]},
        {"field": chance.choice([None, 1, [], {}, "", " "]), "value": {}},
    ]
    return _signed(json.dumps(chance.choice(documents)).encode())


def _soup(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    content = bytearray(_event(chance))
    for _ in range(chance.randrange(1, 6)):
        content[chance.randrange(len(content))] = 0xFF
    return _signed(bytes(content) + chance.choice(DRY))
