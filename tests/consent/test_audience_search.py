"""Finding the audiences that contain opted-out people by kept digests."""

import hashlib
from dataclasses import replace
from datetime import date
from pathlib import Path

import httpx
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.consent import audience_cleanup, audience_search, member_digests
from mm_pipelines.consent.audience_cleanup import remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.delivery import membership
from mm_pipelines.delivery.upload import upload
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.suppression.keys import SuppressionKeyError, SuppressionKeys
from tests.consent.day import context, hash_list, upload_plan
from tests.consent.page import KEY, PAGE_ID, PLAN, Page

FIRST_DAY, SECOND_DAY = date(2026, 11, 20), date(2026, 11, 21)


class Audiences:
    """Audiences of a Page, uploaded through the sandbox."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self._list = folder / "customers.csv"

    def upload(
        self, audience: str, people: range, day: date = FIRST_DAY, page_id: str = PAGE_ID
    ) -> None:
        rows = [f"person{number}@example.com,+1212555{number:04}" for number in people]
        self._list.write_text("email,phone\n" + "\n".join(rows) + "\n")
        hash_list(self.page.database, self.page.storage, str(self._list), audience, day)
        with self.page.client() as client:
            resources = context(self.page.database, self.page.storage, client)
            plan = upload_plan(audience, day)
            upload(resources, replace(plan, spec=replace(plan.spec, page_id=page_id)))

    def opt_out(self, **named: str) -> None:
        self.page.request("table", **named)
        self.page.unsubscribe()

    def search(self) -> set[str]:
        """Search, and return the audiences that are due for cleanup."""
        search(self.page.database, self.page.storage, KEY)
        return {due.audience for due in self.due()}

    def due(self) -> list[audience_cleanup.DueCleanup]:
        with self.page.database.transaction() as connection:
            return audience_cleanup.due(connection)

    def clean_up(self) -> int:
        with self.page.client() as client:
            resources = context(self.page.database, self.page.storage, client)
            return sum(
                remove_opted_out_members(resources, due, KEY, FIRST_DAY) for due in self.due()
            )

    def emails(self, audience: str) -> set[str]:
        with self.page.database.transaction() as connection:
            (custom_audience_id,) = connection.scalars(
                text("select custom_audience_id from mm.custom_audience where audience = :name"),
                {"name": audience},
            )
            members = membership.members_of(connection, custom_audience_id)
        return set(members.frame(self.page.storage).collect()["EMAIL"])

    def entries(self) -> pl.DataFrame:
        with self.page.database.transaction() as connection:
            files = member_digests.files(connection)
        return pl.concat(pl.read_parquet(self.page.storage.url(file.path)) for file in files)


@pytest.fixture
def audiences(page: Page, tmp_path: Path) -> Audiences:
    return Audiences(page, tmp_path)


def sha(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@pytest.mark.parametrize("named", [{"email": "person7@example.com"}, {"phone": "+12125550007"}])
def test_only_the_audiences_that_contain_the_person_are_due(
    audiences: Audiences, named: dict[str, str]
) -> None:
    audiences.upload("newsletter", range(20))
    audiences.upload("loyalty", range(20, 40))
    assert audiences.search() == set()
    audiences.opt_out(**named)
    assert audiences.search() == {"newsletter"}
    assert audiences.clean_up() == 1
    assert sha("person7@example.com") not in audiences.emails("newsletter")
    assert audiences.search() == set()


def test_digests_are_computed_once(audiences: Audiences) -> None:
    audiences.upload("newsletter", range(20))
    audiences.opt_out(email="person1@example.com")
    audiences.search()
    audiences.clean_up()
    audiences.opt_out(email="person2@example.com")
    page = audiences.page
    assert member_digests.refresh(page.database, page.storage, KEY) == 0
    assert audiences.search() == {"newsletter"}
    assert audiences.clean_up() == 1


def test_an_upload_after_the_opt_out_is_searched_for_everyone_on_the_list(
    audiences: Audiences,
) -> None:
    audiences.upload("newsletter", range(20))
    audiences.opt_out(email="person1@example.com")
    audiences.search()
    audiences.clean_up()
    forget_opt_outs_while_hashing = "update mm.suppression set digest = reverse(digest)"
    with audiences.page.database.transaction() as connection:
        connection.execute(text(forget_opt_outs_while_hashing))
    audiences.upload("newsletter", range(30), SECOND_DAY)
    with audiences.page.database.transaction() as connection:
        connection.execute(text(forget_opt_outs_while_hashing))
    assert sha("person1@example.com") in audiences.emails("newsletter")
    assert audiences.search() == {"newsletter"}
    assert audiences.clean_up() == 1
    assert len(audiences.emails("newsletter")) == 29
    assert audiences.search() == set()


def test_a_person_in_an_upload_that_has_not_ended_is_found_when_it_ends(
    audiences: Audiences,
) -> None:
    audiences.upload("newsletter", range(20))
    database = audiences.page.database
    with database.transaction() as connection:
        connection.execute(text("update mm.upload_delta set completed_at = null"))
        connection.execute(text("update mm.upload_batch set status = 'planned'"))
    audiences.opt_out(email="person1@example.com")
    assert audiences.search() == {"newsletter"}
    assert audiences.clean_up() == 0
    with database.transaction() as connection:
        connection.execute(text("update mm.upload_batch set status = 'acknowledged'"))
        connection.execute(text("update mm.upload_delta set completed_at = now()"))
    assert audiences.search() == {"newsletter"}
    assert audiences.clean_up() == 1


def test_a_cleanup_does_not_hide_what_a_later_search_found(audiences: Audiences) -> None:
    audiences.upload("newsletter", range(20))
    audiences.opt_out(email="person1@example.com")
    audiences.search()
    (earlier,) = audiences.due()
    audiences.opt_out(email="person2@example.com")
    audiences.search()
    with audiences.page.database.transaction() as connection:
        audience_cleanup.record(connection, earlier, removed=0)
    assert len(audiences.due()) == 1


def test_a_lost_file_of_digests_is_written_again(audiences: Audiences) -> None:
    audiences.upload("newsletter", range(20))
    audiences.upload("loyalty", range(20))
    audiences.opt_out(email="person1@example.com")
    audiences.search()
    audiences.clean_up()
    storage = audiences.page.storage
    for path, _ in list(storage.files(member_digests.FOLDER)):
        storage.delete(path)
    audiences.opt_out(email="person2@example.com")
    assert audiences.search() == {"newsletter", "loyalty"}


def test_entries_of_removed_people_are_dropped(audiences: Audiences) -> None:
    audiences.upload("newsletter", range(20))
    audiences.opt_out(email="person1@example.com", phone="+12125550001")
    audiences.search()
    assert audiences.entries().height == 40
    audiences.clean_up()
    audiences.upload("newsletter", range(25), SECOND_DAY)
    audiences.search()
    assert audiences.entries().height == 2 * (20 - 1 + 5)


def test_a_person_in_an_audience_of_another_page_is_unsubscribed_there_once(
    audiences: Audiences,
) -> None:
    page, other = audiences.page, "134141414124124"
    audiences.upload("newsletter", range(20))
    audiences.upload("loyalty", range(20), page_id=other)
    page.sandbox("settle")
    audiences.opt_out(email="person7@example.com", phone="+12125550007")
    assert audiences.search() == {"newsletter", "loyalty"}
    page.sandbox("faults", path="*/users", method="DELETE", error={"code": 190}, times=1)
    with pytest.raises(GraphApiError):
        audiences.clean_up()
    audiences.clean_up()
    assert {len(audiences.emails(name)) for name in ("newsletter", "loyalty")} == {19}
    of_others = "select page_id, source from mm.unsubscribe_request where source = 'audience'"
    assert page.rows(of_others) == [(other, "audience")]
    assert page.unsubscribe(replace(PLAN, page_id=other)).confirmed == 1
    assert unsubscribed(page, other) == 1


def unsubscribed(page: Page, page_id: str) -> int:
    """The number of tokens of a Page that were unsubscribed at Meta."""
    counts = httpx.get(f"{page.url}/_sandbox/tokens").raise_for_status().json()
    (of_page,) = (each for each in counts if each["page_id"] == page_id)
    return int(of_page["unsubscribed"])


def test_another_key_cannot_search(audiences: Audiences) -> None:
    audiences.opt_out(email="person1@example.com")
    with pytest.raises(SuppressionKeyError):
        search(audiences.page.database, audiences.page.storage, SuppressionKeys(b"another key"))


def test_a_long_search_is_followed_by_a_pause(audiences: Audiences) -> None:
    audiences.opt_out(email="person1@example.com")
    audiences.search()
    audiences.opt_out(email="person2@example.com")
    with audiences.page.database.transaction() as connection:
        assert audience_search.page_to_search_for(connection) is not None
        connection.execute(text("update mm.suppression_search set took = interval '5 s'"))
        assert audience_search.page_to_search_for(connection) is None
        connection.execute(
            text("update mm.suppression_search set ended_at = ended_at - interval '101 s'")
        )
        assert audience_search.page_to_search_for(connection) is not None
