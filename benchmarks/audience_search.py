"""Opted-out people found in all audiences, and removed from those that contain them.

The default size is a hundredth of the goal: 500 Pages with 100 million memberships and a thousand
leavers an hour. Computing and searching are linear in the memberships and cleaning is linear in
the members of one audience, so the figures of the goal are these times the ratio of the sizes. A
search that takes longer than a second may use a twentieth of the time, so 3 minutes of an hour are
its bound whatever it takes.
"""

import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import polars as pl
import polars_hash as plh
from sqlalchemy import text

from benchmarks.audience_upload import upload_stub
from benchmarks.figure import Figure, median_seconds
from mm_pipelines.consent import audience_cleanup, member_digests
from mm_pipelines.consent.audience_cleanup import remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.delivery import custom_audience, deltas, membership
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.delivery.deltas import NewDelta
from mm_pipelines.delivery.membership import MembershipFile
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.storage import Storage
from mm_pipelines.suppression import suppression_list
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.suppression.suppression_list import SuppressedValue
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade

AUDIENCES: Final = 25
MEMBERS: Final = 40_000
LEAVERS: Final = 20

_GOAL_MEMBERSHIPS = 100_000_000
_GOAL_MEMBERS = 200_000
_GOAL_CLEANUPS = 1_000

_KEY = SuppressionKeys(b"key of the benchmark")
_DAY = date(2026, 11, 20)


@dataclass(frozen=True)
class _Installation:
    database: Database
    storage: Storage
    request_id: int

    def suppress(self, first: int) -> None:
        """Add leavers of as many audiences to the suppression list."""
        emails = [_email(place % AUDIENCES, first + place) for place in range(LEAVERS)]
        hashes = pl.DataFrame({"email": emails}).select(plh.col("email").chash.sha2_256())
        with self.database.transaction() as connection:
            suppression_list.add(
                connection,
                _KEY,
                [SuppressedValue("EMAIL", sha256, self.request_id) for sha256 in hashes["email"]],
            )


def run() -> list[Figure]:
    """Seconds per search and per cleanup, and the minutes that they mean in an hour."""
    with tempfile.TemporaryDirectory() as folder, upload_stub() as url:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        database = Database(server.start())
        try:
            upgrade(database)
            installation = _filled(database, Storage(f"{folder}/storage"))
            return _measured(installation, url)
        finally:
            database.dispose()
            server.stop()


def _measured(installation: _Installation, url: str) -> list[Figure]:
    database, storage = installation.database, installation.storage
    begun = time.perf_counter()
    member_digests.refresh(database, storage, _KEY)
    computing = time.perf_counter() - begun
    first = iter(range(0, MEMBERS, LEAVERS))

    def find() -> None:
        installation.suppress(next(first))
        search(database, storage, _KEY)

    searching = median_seconds(find)
    with database.transaction() as connection:
        due = audience_cleanup.due(connection)
    with GraphApiClient("token", base_url=url) as client:
        context = DeliveryContext(database, storage, client, lambda _: None)
        cleaning = median_seconds(
            lambda: remove_opted_out_members(context, due.pop(), _KEY, _DAY), runs=len(due)
        )
    larger = _GOAL_MEMBERSHIPS / (AUDIENCES * MEMBERS)
    searches = min(3.0, searching * larger)  # one a minute, or a twentieth of the time
    cleanups = _GOAL_CLEANUPS * cleaning * _GOAL_MEMBERS / MEMBERS / 60
    return [
        Figure("digests of 1 M memberships, once", computing, "s"),
        Figure("search of 1 M memberships", searching, "s"),
        Figure("search of 100 M, linear", searching * larger, "s"),
        Figure(f"cleanup of an audience of {MEMBERS:,}", cleaning, "s"),
        Figure("searches at the goal", searches, "min/h", target="within minutes"),
        Figure("cleanups at the goal", cleanups, "min/h", target="within minutes"),
    ]


def _filled(database: Database, storage: Storage) -> _Installation:
    with database.transaction() as connection:
        request_id = connection.scalar(
            text("""
                insert into mm.unsubscribe_request (page_id, state, settled_at)
                values ('1', 'confirmed', now()) returning id
            """)
        )
    for audience in range(AUDIENCES):
        _upload(database, storage, audience)
    return _Installation(database, storage, request_id or 0)


def _upload(database: Database, storage: Storage, audience: int) -> None:
    people = pl.DataFrame({"email": [_email(audience, number) for number in range(MEMBERS)]})
    rows = people.select(
        EMAIL=plh.col("email").chash.sha2_256(),
        PHONE=plh.concat_str(pl.lit("+"), pl.col("email")).chash.sha2_256(),
    )
    name, page_id = f"audience{audience}", str(audience)
    file = storage.publish(f"members/{name}", ".parquet", rows.write_parquet)
    new = NewDelta(
        audience=name,
        day=_DAY,
        custom_audience_id=name,
        operation="add",
        origin="payload",
        source_sha256=file.sha256,
        path=file.path,
        row_count=MEMBERS,
        keys=("EMAIL",),
    )
    with database.transaction() as connection:
        custom_audience.record(connection, CustomAudience(name, name, page_id, page_id, name))
        delta = deltas.freeze(connection, new)
        deltas.complete(connection, delta)
        membership.record(connection, name, MembershipFile(file.path, MEMBERS, delta.id))


def _email(audience: int, number: int) -> str:
    return f"person{number}@audience{audience}.example.com"
