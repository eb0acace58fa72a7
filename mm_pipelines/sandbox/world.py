"""The sandbox's state: one SQLite file, one clock, one lock.

Every call is one transaction, so a process killed at any instant has applied a call completely or
not at all. Later work (matching, webhooks) is a row with a due time, so a restart finds it.
"""

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from mm_pipelines.sandbox.encoding import from_json, keyed_number, to_json
from mm_pipelines.sandbox.settings import Settings, Variants

SCHEMA = """
CREATE TABLE IF NOT EXISTS remembered (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS audience (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    audience_id TEXT UNIQUE, account_id TEXT, page_id TEXT, name TEXT, description TEXT,
    subtype TEXT, customer_file_source TEXT, marketing_messages INTEGER, retention_days INTEGER,
    time_created INTEGER, time_updated INTEGER, time_content_updated INTEGER,
    operation_status INTEGER, matched INTEGER DEFAULT 0, deleted_at INTEGER
);

CREATE TABLE IF NOT EXISTS session (
    account_id TEXT, session_id TEXT, audience_id TEXT, kind TEXT, schema TEXT,
    started_at REAL, ended_at REAL, last_seq INTEGER, estimated_total INTEGER,
    num_received INTEGER DEFAULT 0, num_invalid INTEGER DEFAULT 0, num_matched INTEGER DEFAULT 0,
    PRIMARY KEY (account_id, session_id)
) WITHOUT ROWID;

-- A batch with due_at and no processed_at is a matching job still to be done.
CREATE TABLE IF NOT EXISTS batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id TEXT, session_id TEXT, batch_seq INTEGER, audience_id TEXT, kind TEXT,
    digest TEXT, num_rows INTEGER, num_invalid INTEGER, receipt BLOB,
    received_at REAL, times_received INTEGER DEFAULT 1, due_at REAL, processed_at REAL,
    subscribers TEXT DEFAULT 'accepted'
);
CREATE UNIQUE INDEX IF NOT EXISTS batch_in_session ON batch (account_id, session_id, batch_seq);
CREATE INDEX IF NOT EXISTS batch_due ON batch (due_at)
    WHERE due_at IS NOT NULL AND processed_at IS NULL;

-- `hashes` is the row as it came: SHA-256 of e-mail and phone, 32 bytes each or zeros where absent.
-- `email` and `phone` are their first 64 bits as a number (0 where absent), because ten thousand
-- random keys a batch are written fast only where they are small.
CREATE TABLE IF NOT EXISTS member (
    number INTEGER PRIMARY KEY,
    audience INTEGER, email INTEGER, phone INTEGER, hashes BLOB, batch INTEGER
);
-- The rows of a batch that were members already, while `member.batch` is their first batch.
CREATE TABLE IF NOT EXISTS resent_row (
    batch INTEGER, email INTEGER, phone INTEGER, PRIMARY KEY (batch, email, phone)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS member_once ON member (audience, email, phone);
CREATE INDEX IF NOT EXISTS member_by_phone ON member (audience, phone);
CREATE INDEX IF NOT EXISTS member_by_batch ON member (batch);

-- `person` is set in tokens that audiences made, `psid` in those that people opted into.
CREATE TABLE IF NOT EXISTS token (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token INTEGER UNIQUE, page_id TEXT, person INTEGER, psid TEXT, topic_title TEXT, reoptin TEXT,
    user_token_status TEXT, timezone TEXT, created_at INTEGER, expires_at INTEGER,
    next_eligible_at INTEGER, opt_in_source TEXT, has_received INTEGER DEFAULT 0,
    seen INTEGER DEFAULT 0, gone_at INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS token_of_person ON token (person, page_id)
    WHERE person IS NOT NULL;
CREATE INDEX IF NOT EXISTS token_of_page ON token (page_id, number);
CREATE INDEX IF NOT EXISTS token_of_psid ON token (page_id, psid) WHERE psid IS NOT NULL;
CREATE INDEX IF NOT EXISTS token_unseen ON token (number) WHERE seen = 0 AND person IS NOT NULL;
-- `earned`: a session of this audience in which the person matched reached the match threshold.
CREATE TABLE IF NOT EXISTS token_audience (
    audience INTEGER, token INTEGER, earned INTEGER DEFAULT 0, PRIMARY KEY (audience, token)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS audience_of_token ON token_audience (token);
-- By which e-mails and phones tokens can be found again, to unsubscribe them.
CREATE TABLE IF NOT EXISTS contact (
    identifier INTEGER, token INTEGER, PRIMARY KEY (identifier, token)
) WITHOUT ROWID;

-- The Page-scoped IDs of people who hold a token of an old topic and one from an audience.
CREATE TABLE IF NOT EXISTS acquaintance (
    page_id TEXT, psid TEXT, person INTEGER, PRIMARY KEY (page_id, psid)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS conversation (
    page_id TEXT, psid TEXT, timezone TEXT, last_message_at REAL, PRIMARY KEY (page_id, psid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS optin_request (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    page_id TEXT, psid TEXT, title TEXT, payload TEXT, timezone TEXT, message_id TEXT,
    asked_at REAL, answer TEXT
);
CREATE INDEX IF NOT EXISTS optin_request_of_psid ON optin_request (page_id, psid);

CREATE TABLE IF NOT EXISTS subscription (
    level TEXT, object TEXT, object_id TEXT, fields TEXT, callback_url TEXT,
    PRIMARY KEY (level, object, object_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS webhook (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    object TEXT, field TEXT, object_id TEXT, body BLOB, made_at REAL, attempts INTEGER DEFAULT 0,
    due_at REAL, delivered_at REAL, last_status INTEGER, alone INTEGER DEFAULT 0
);
CREATE INDEX IF NOT EXISTS webhook_due ON webhook (due_at) WHERE delivered_at IS NULL;

CREATE TABLE IF NOT EXISTS webhook_fault (
    number INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT,
    seen INTEGER DEFAULT 0, fired INTEGER DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fault (
    number INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT,
    seen INTEGER DEFAULT 0, fired INTEGER DEFAULT 0
);
CREATE TABLE IF NOT EXISTS rate_limit (
    subject TEXT, kind TEXT, rule TEXT, blocked_until REAL, PRIMARY KEY (subject, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL, method TEXT, path TEXT, subject TEXT, principal TEXT, status INTEGER, code INTEGER,
    fault INTEGER
);
CREATE INDEX IF NOT EXISTS call_of_subject ON call (subject, at);
CREATE INDEX IF NOT EXISTS call_at ON call (at);
"""

# Columns that state files of earlier versions lack.
ADDED_COLUMNS = (
    ("batch", "subscribers", "TEXT DEFAULT 'accepted'"),
    ("token_audience", "earned", "INTEGER DEFAULT 0"),
    ("webhook", "alone", "INTEGER DEFAULT 0"),
)

TABLES = (
    "audience", "session", "batch", "member", "token", "token_audience", "contact", "conversation",
    "optin_request", "subscription", "webhook", "webhook_fault", "fault", "rate_limit", "call",
    "remembered", "resent_row", "acquaintance",
)  # fmt: skip


class World:
    """Settings, state and clock of one sandbox; thread-safe, one transaction at a time.

    Args:
        settings: The sandbox's settings.
        now: The real time in unix seconds, on which the sandbox's own clock is based.
        webhook_transport: Sends the calls to the receiver; by default over the network.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float] = time.time,
        webhook_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self.webhook_transport = webhook_transport
        self._real_time = now
        self._numbers = itertools.count()
        if settings.state_file is not None:
            settings.state_file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        # One delivery round at a time: two rounds would send the same webhook twice.
        self.delivering = asyncio.Lock()
        self.db = sqlite3.connect(
            settings.state_file or ":memory:", check_same_thread=False, isolation_level=None
        )
        self.db.row_factory = sqlite3.Row
        # The end of this process at any instant loses nothing that is committed. A crash of the
        # machine may, which is acceptable for a stand-in.
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.execute("PRAGMA wal_autocheckpoint = 20000")
        self.db.execute("PRAGMA cache_size = -131072")
        self.db.executescript(SCHEMA)
        for table, column, definition in ADDED_COLUMNS:
            present = self.db.execute(f"PRAGMA table_info({table})").fetchall()
            if column not in {row["name"] for row in present}:
                self.db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {definition}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; nested use joins the transaction under way."""
        with self._lock:
            if self.db.in_transaction:
                yield self.db
                return
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def insert(self, statement: str, values: Sequence[Any]) -> int:
        """Insert one row; returns its number."""
        with self.transaction() as db:
            number = db.execute(statement, values).lastrowid
        return -1 if number is None else number

    def close(self) -> None:
        """Close the state file."""
        with self._lock:
            self.db.close()

    def next_number(self, purpose: str, *, digits: int) -> int:
        """A number that was not used before in this process and follows from the seed."""
        return keyed_number(self.settings.seed, purpose, next(self._numbers), digits=digits)

    def now(self) -> float:
        """The sandbox's time in unix seconds: the real time plus an offset, or a frozen time."""
        clock = self.recall("clock", {})
        frozen_at = clock.get("frozen_at")
        if frozen_at is not None:
            return float(frozen_at)
        return self._real_time() + float(clock.get("offset", 0.0))

    def set_clock(self, *, advance_seconds: float = 0.0, frozen: bool | None = None) -> None:
        """Move the clock forward; freeze it, or let it run again from its current time."""
        with self.transaction():
            now = self.now() + advance_seconds
            was_frozen = self.recall("clock", {}).get("frozen_at") is not None
            if was_frozen if frozen is None else frozen:
                self.remember("clock", {"frozen_at": now})
            else:
                self.remember("clock", {"offset": now - self._real_time()})

    def variants(self) -> Variants:
        """The variants in force for every call."""
        kept = self.recall("variants", None)
        return self.settings.variants if kept is None else Variants.model_validate(kept)

    def remember(self, name: str, value: object) -> None:
        """Keep a JSON value under a name."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (name, to_json(value)))

    def recall(self, name: str, default: object) -> Any:
        """The value kept under a name, or the default."""
        with self._lock:
            row = self.db.execute("SELECT value FROM remembered WHERE name = ?", (name,)).fetchone()
        return default if row is None else from_json(row["value"])

    def reset(self) -> None:
        """Delete all state, as if the state file had been deleted."""
        with self.transaction() as db:
            for table in TABLES:
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM sqlite_sequence")
