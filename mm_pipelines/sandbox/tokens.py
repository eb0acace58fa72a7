"""Subscription tokens: a Page's listing and the single token.

A token from an audience contains nothing about the person; a token from an opt-in has all fields.
"""

import sqlite3
from collections.abc import Collection
from typing import Any

from mm_pipelines.sandbox import errors
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import keyed_fraction, keyed_number, spread
from mm_pipelines.sandbox.paging import paging, position_after, requested_fields
from mm_pipelines.sandbox.world import World

DEFAULT_LIMIT, HIGHEST_LIMIT = 100, 1000
WITHOUT_DUPLICATES_CAP = 10_000
DAY = 86_400

FIELDS = (
    "id", "notification_messages_token", "recipient_id", "topic_title",
    "notification_messages_reoptin", "notification_messages_timezone", "user_token_status",
    "creation_timestamp", "token_expiry_timestamp", "next_eligible_time",
    "next_eligible_time_for_paid_messaging", "custom_audience_ids",
)  # fmt: skip
TIMES = {
    "creation_timestamp": "created_at",
    "token_expiry_timestamp": "expires_at",
    "next_eligible_time": "next_eligible_at",
    "next_eligible_time_for_paid_messaging": "next_eligible_at",
}

DEFAULT_TITLE = "Updates and promotions"
OLD_TITLE = "New arrivals"
_TITLES = (DEFAULT_TITLE, OLD_TITLE, "Members' offers")
_TIMEZONES = ("America/New_York", "America/Sao_Paulo", "Asia/Manila", "Asia/Ho_Chi_Minh")
_SOURCES = ("CTM", "COMMENT_AUTOMATION", "REPLY_AUTOMATION", None)

# Listed are tokens of opt-ins; tokens of an audience if one of its audiences shows them; and
# tokens that have left all their audiences after they were listed.
_LISTED = """
t.page_id = :page AND t.gone_at IS NULL AND (
    t.person IS NULL
    OR EXISTS (
        SELECT 1 FROM token_audience a JOIN audience c ON c.number = a.audience
        WHERE a.token = t.number AND {shown}
    )
    OR (t.seen AND NOT EXISTS (SELECT 1 FROM token_audience a WHERE a.token = t.number))
)
"""
_SHOWN = {
    "audience": "c.matched >= :floor",
    "session": "a.earned",
    "discard": "a.earned",
}

_FIRST_OF_RECIPIENT = """
(t.psid IS NULL OR t.number = (
    SELECT min(o.number) FROM token o
    WHERE o.page_id = t.page_id AND o.psid = t.psid AND o.gone_at IS NULL
))
"""


def listing(world: World, call: Call, page_id: str) -> dict[str, Any]:
    """GET /<PAGE_ID>/notification_message_tokens."""
    fields = requested_fields(call, FIELDS, default=FIELDS[1:])
    limit = min(call.whole_number("limit", DEFAULT_LIMIT, lowest=1), HIGHEST_LIMIT)
    if call.variants.empty_listing:
        return {"data": []}
    after, emptied = divmod(position_after(call), 2)
    with world.transaction() as db:
        populate(world, page_id)
        if call.variants.short_pages:
            # Uneven pages, every third one empty: only a missing `next` marks the end.
            place = keyed_number(world.settings.seed, "page", after, digits=6)
            if not emptied and after and place % 3 == 0:
                return {"data": [], "paging": paging(call, 2 * after, 2 * after + 1, more=True)}
            limit = max(1, limit - place % (limit // 2 + 1))
        where, values = _conditions(call)
        values |= {"page": page_id, "floor": world.settings.audience_floor}
        if call.flag("do_not_return_duplicates"):
            where += f" AND {_FIRST_OF_RECIPIENT}"
            where, values = _capped(db, where, values)
        rows = db.execute(
            f"SELECT t.* FROM token t WHERE {where} AND t.number > :after"
            " ORDER BY t.number LIMIT :limit",
            {**values, "after": after, "limit": limit + 1},
        ).fetchall()
        page, more = rows[:limit], len(rows) > limit
        audiences = _audiences_of(world, call, page)
    unit = 1000 if call.variants.timestamp_unit == "milliseconds" else 1
    answer: dict[str, Any] = {"data": [_described(row, fields, audiences, unit) for row in page]}
    if page:
        answer["paging"] = paging(call, 2 * page[0]["number"], 2 * page[-1]["number"], more)
    return answer


def read(world: World, call: Call, page_id: str, token: str) -> dict[str, Any]:
    """GET /notification_messages_<TOKEN>, for the Page whose token calls."""
    fields = requested_fields(call, FIELDS, default=FIELDS[1:])
    with world.transaction() as db:
        populate(world, page_id)
        row = db.execute(
            f"SELECT t.* FROM token t WHERE t.token = :token AND {_listed(call)}",
            {"token": token, "page": page_id, "floor": world.settings.audience_floor},
        ).fetchone()
        if row is None:
            raise errors.unknown_object(f"notification_messages_{token}")
        audiences = _audiences_of(world, call, [row])
    unit = 1000 if call.variants.timestamp_unit == "milliseconds" else 1
    return _described(row, fields, audiences, unit)


def page_of(world: World, token: str) -> str | None:
    """The Page of a token."""
    row = world.db.execute("SELECT page_id FROM token WHERE token = ?", (token,)).fetchone()
    return None if row is None else row["page_id"]


def mint(world: World, db: sqlite3.Connection, page_id: str, people: Collection[int]) -> None:
    """Make the tokens of matched people at a Page; a token that exists stays as it is.

    A list cannot subscribe people again who unsubscribed from the Page.
    """
    settings, now = world.settings, int(world.now())
    db.executemany(
        "INSERT OR IGNORE INTO token (token, page_id, person, topic_title, reoptin,"
        " user_token_status, created_at, opt_in_source)"
        " VALUES (?, ?, ?, ?, 'ENABLED', 'NOT_REFRESHED', ?, 'SUBSCRIBER_LIST')",
        [
            (token_number(settings.seed, page_id, person), page_id, person, DEFAULT_TITLE, now)
            for person in people
        ],
    )
    if not settings.old_topic_share:
        return
    for person in people:
        if keyed_fraction(settings.seed, "old topic", person) < settings.old_topic_share:
            _mint_old_topic(world, db, page_id, person)


def _mint_old_topic(world: World, db: sqlite3.Connection, page_id: str, person: int) -> None:
    """Make the token of an old topic, with a Page-scoped ID, of a matched person."""
    psid = str(keyed_number(world.settings.seed, page_id, "old topic psid", person, digits=16))
    if db.execute("SELECT 1 FROM token WHERE page_id = ? AND psid = ?", (page_id, psid)).fetchone():
        return
    created = int(world.now()) - 300 * DAY
    db.execute(
        "INSERT INTO token (token, page_id, psid, topic_title, reoptin, user_token_status,"
        " timezone, created_at, next_eligible_at, opt_in_source)"
        " VALUES (?, ?, ?, ?, 'ENABLED', 'NOT_REFRESHED', ?, ?, ?, 'CTM')",
        (
            keyed_number(world.settings.seed, page_id, "old topic", person, digits=18),
            page_id,
            psid,
            OLD_TITLE,
            _TIMEZONES[person % len(_TIMEZONES)],
            created,
            created,
        ),
    )
    db.execute("INSERT OR IGNORE INTO acquaintance VALUES (?, ?, ?)", (page_id, psid, person))


def token_number(seed: int, page_id: str, person: int) -> int:
    """The token of a person at a Page: 19 digits, more than a float can hold."""
    return 10**18 + spread(seed, page_id.encode(), person) % (8 * 10**18)


def populate(world: World, page_id: str) -> None:
    """Make the people who opted in before the sandbox starts; a third hold several tokens."""
    if world.recall(f"populated:{page_id}", False):
        return
    world.remember(f"populated:{page_id}", True)
    settings = world.settings
    midnight = int(world.now()) // DAY * DAY
    for person in range(settings.optin_people_per_page):
        psid = str(keyed_number(settings.seed, page_id, "psid", person, digits=16))
        for nth in range(1 if person % 3 else 2 + person % 2):
            number = keyed_number(settings.seed, page_id, "token", person, nth, digits=18)
            chance = keyed_fraction(settings.seed, page_id, "chance", person, nth)
            created = midnight - int(chance * 200 + 1) * DAY - nth * 3600
            # Most never expire. Some have expired, some cannot be messaged before tonight.
            expires = None if chance < 0.7 else created + 120 * DAY
            world.db.execute(
                "INSERT INTO token (token, page_id, psid, topic_title, reoptin,"
                " user_token_status, timezone, created_at, expires_at, next_eligible_at,"
                " opt_in_source, has_received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    page_id,
                    psid,
                    _TITLES[nth % len(_TITLES)],
                    "DISABLED" if 0.5 < chance < 0.55 else "ENABLED",
                    "REFRESHED" if chance < 0.4 else "NOT_REFRESHED",
                    _TIMEZONES[person % len(_TIMEZONES)],
                    created,
                    expires,
                    midnight + 2 * DAY if 0.2 < chance < 0.3 else created,
                    _SOURCES[person % len(_SOURCES)],
                    int(chance > 0.5),
                ),
            )


def _conditions(call: Call) -> tuple[str, dict[str, Any]]:
    where, values = _listed(call), dict[str, Any]()
    audience_ids = call.items("custom_audience_ids")
    if audience_ids:
        names = [f"audience{index}" for index in range(len(audience_ids))]
        where += (
            " AND t.number IN (SELECT a.token FROM token_audience a"
            " JOIN audience c ON c.number = a.audience"
            f" WHERE {_shown(call)} AND c.audience_id IN ({_bound(names)}))"
        )
        values |= dict(zip(names, audience_ids, strict=True))
    sources = call.items("opt_in_source")
    if sources:
        names = [f"source{index}" for index in range(len(sources))]
        where += f" AND t.opt_in_source IN ({_bound(names)})"
        values |= dict(zip(names, sources, strict=True))
    received = call.flag("has_received_marketing_message")
    if received is not None:
        where += " AND t.has_received = :received"
        values["received"] = int(received)
    return where, values


def _bound(names: list[str]) -> str:
    return ", ".join(f":{name}" for name in names)


def _capped(
    db: sqlite3.Connection, where: str, values: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Stop silently after 10,000 tokens, as do_not_return_duplicates does."""
    last = db.execute(
        f"SELECT t.number FROM token t WHERE {where} ORDER BY t.number LIMIT 1 OFFSET :skipped",
        {**values, "skipped": WITHOUT_DUPLICATES_CAP - 1},
    ).fetchone()
    if last is None:
        return where, values
    return f"{where} AND t.number <= :last", {**values, "last": last["number"]}


def _audiences_of(world: World, call: Call, rows: list[sqlite3.Row]) -> dict[int, list[str]]:
    """The audiences of each of these tokens, as far as they show their tokens."""
    audiences: dict[int, list[str]] = {}
    numbers = [row["number"] for row in rows if row["person"] is not None]
    values = {f"token{index}": number for index, number in enumerate(numbers)}
    for token, audience_id in world.db.execute(
        "SELECT a.token, c.audience_id FROM token_audience a"
        " JOIN audience c ON c.number = a.audience"
        f" WHERE {_shown(call)} AND a.token IN ({_bound(list(values))})"
        " ORDER BY c.number",
        {**values, "floor": world.settings.audience_floor},
    ):
        audiences.setdefault(token, []).append(audience_id)
    return audiences


def _listed(call: Call) -> str:
    return _LISTED.format(shown=_shown(call))


def _shown(call: Call) -> str:
    """The condition under which an audience shows a token."""
    return _SHOWN[call.variants.match_threshold]


def _described(
    row: sqlite3.Row, fields: list[str], audiences: dict[int, list[str]], unit: int
) -> dict[str, Any]:
    node: dict[str, Any] = {
        "id": f"notification_messages_{row['token']}",
        "notification_messages_token": str(row["token"]),
        "topic_title": row["topic_title"],
        "notification_messages_reoptin": row["reoptin"],
    }
    if row["person"] is not None:
        node["custom_audience_ids"] = audiences.get(row["number"], [])
    else:
        node["recipient_id"] = row["psid"]
        node["notification_messages_timezone"] = row["timezone"]
        node["user_token_status"] = row["user_token_status"]
        for name, column in TIMES.items():
            if row[column] is not None:
                node[name] = row[column] * unit
    return {name: node[name] for name in fields if name in node}
