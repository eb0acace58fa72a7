"""The steps of docs/operations.md#the-suppression-key, in their order."""

import gzip
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from mm_pipelines.consent.audience_cleanup import due, remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.consent.grants import grant_by_identifier
from mm_pipelines.consent.opt_outs import OptOutSummary, receive_list
from mm_pipelines.delivery.upload import upload
from mm_pipelines.lists import FileSource
from mm_pipelines.payload import build_hashed_payload
from mm_pipelines.suppression import erased_contacts
from mm_pipelines.suppression.erased_contacts import Contact
from mm_pipelines.suppression.keys import (
    SuppressionKeyError,
    SuppressionKeys,
    check_keys,
    entries_under_previous_key,
)
from mm_pipelines.suppression.suppression_list import SuppressionList
from tests.consent.day import context, hash_list, upload_plan
from tests.consent.page import KEY, PAGE_ID, PLAN, Page

OLD, BOTH, NEW = KEY, SuppressionKeys(b"the new key", KEY.current), SuppressionKeys(b"the new key")
DAY = date(2026, 11, 20)


def opt_out(page: Page, keys: SuppressionKeys, email: str) -> int:
    """Opt out, and return how many values were not suppressed before."""
    page.request(email=email)
    return page.unsubscribe(replace(PLAN, suppression_keys=keys)).suppressed


def left_of(page: Page, folder: Path, keys: SuppressionKeys, *emails: str) -> int:
    """How many rows of a list remain without opted-out people."""
    path = folder / "list.csv"
    path.write_text("email\n" + "\n".join(emails) + "\n")
    source, suppression = FileSource(str(path)), SuppressionList.load(page.database, keys)
    payload = build_hashed_payload(source, page.storage, folder="x", suppression=suppression)
    suppression.move_to_current_key(page.database)
    return payload.accepted


def under_previous(page: Page) -> int:
    with page.database.transaction() as connection:
        return entries_under_previous_key(connection, BOTH)


def accepts(page: Page, keys: SuppressionKeys) -> bool:
    try:
        with page.database.transaction() as connection:
            check_keys(connection, keys)
    except SuppressionKeyError:
        return False
    return True


def test_a_key_is_changed_step_by_step_and_no_opt_out_is_lost(page: Page, tmp_path: Path) -> None:
    for name in ("ann", "bob", "cem"):
        opt_out(page, OLD, f"{name}@example.com")
    # The new key alone stops everything, so that no person is missed.
    assert not accepts(page, NEW)
    with pytest.raises(SuppressionKeyError, match="MM_SUPPRESSION_KEY_PREVIOUS"):
        opt_out(page, NEW, "dee@example.com")
    # Step 1: both keys. Entries of both are recognized; new ones have the new key.
    assert accepts(page, BOTH)
    assert opt_out(page, BOTH, "dee@example.com") == 1
    assert under_previous(page) == 3
    # A process that was not restarted stops instead of adding entries under the old key.
    assert not accepts(page, OLD)
    # Step 2: a list moves the entries of its people.
    assert left_of(page, tmp_path, BOTH, "ann@example.com", "dee@example.com", "eve@x.co") == 1
    assert under_previous(page) == 2
    # An opt-out moves the entry of its person, who was suppressed already.
    assert opt_out(page, BOTH, "bob@example.com") == 0
    assert under_previous(page) == 1
    # Step 3: while entries remain, the previous key cannot be removed.
    assert not accepts(page, NEW)
    assert left_of(page, tmp_path, BOTH, "cem@example.com") == 0
    assert under_previous(page) == 0
    # Step 4: the previous key is removed.
    assert accepts(page, NEW)
    everyone = [f"{name}@example.com" for name in ("ann", "bob", "cem", "dee")]
    assert left_of(page, tmp_path, NEW, *everyone) == 0
    assert not accepts(page, OLD)
    assert page.rows("select count(*) from mm.suppression") == [(4,)]


def test_the_change_can_be_undone(page: Page, tmp_path: Path) -> None:
    opt_out(page, OLD, "ann@example.com")
    opt_out(page, BOTH, "dee@example.com")
    back = SuppressionKeys(OLD.current, NEW.current)
    assert accepts(page, back)
    assert left_of(page, tmp_path, back, "ann@example.com", "dee@example.com") == 0
    assert accepts(page, OLD)


def test_an_audience_that_contains_a_person_moves_the_entry(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "customers.csv"
    path.write_text("email\nann@example.com\nbob@example.com\ncem@example.com\n")
    hash_list(page.database, page.storage, str(path), "newsletter", DAY)
    opt_out(page, OLD, "ann@example.com")
    assert accepts(page, BOTH)
    with page.client() as client:
        resources = context(page.database, page.storage, client)
        upload(resources, upload_plan("newsletter", DAY))
        search(page.database, page.storage, BOTH)
        with page.database.transaction() as connection:
            (cleanup,) = due(connection)
        assert remove_opted_out_members(resources, cleanup, BOTH, DAY) == 1
    assert under_previous(page) == 0


def test_a_list_that_is_read_again_adds_no_rows(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "2026-11-20.csv.gz"
    path.write_bytes(gzip.compress(b"email,note\nann@example.com,x\n,y\n"))
    for keys, new in ((OLD, 1), (BOTH, 0)):
        summary = OptOutSummary()
        receive_list(page.database, str(path), replace(PLAN, suppression_keys=keys), DAY, summary)
        assert (summary.received, summary.rejected) == (new, new)


def test_consent_lifts_an_entry_of_the_previous_key(page: Page, tmp_path: Path) -> None:
    opt_out(page, OLD, "ann@example.com")
    assert accepts(page, BOTH)
    lifted = grant_by_identifier(
        page.database, BOTH, "email", "ann@example.com", reason="form", default_country=None
    )
    assert lifted == 1
    assert left_of(page, tmp_path, BOTH, "ann@example.com") == 1


def test_erased_contacts_are_recognized_under_both_keys(page: Page) -> None:
    with page.database.transaction() as connection:
        check_keys(connection, OLD)
        erased_contacts.add(connection, [Contact(PAGE_ID, "token", "8123")], OLD)
        assert erased_contacts.load(connection, PAGE_ID, BOTH).when("token", "8123")
    listed = pl.DataFrame({"token": ["8123", "8124"], "recipient_id": [None, "5551"]})
    with page.database.transaction() as connection:
        erased = erased_contacts.load(connection, PAGE_ID, BOTH)
    assert erased.tokens_of_erased_people(listed).to_list() == ["8123"]
    assert not accepts(page, NEW)
