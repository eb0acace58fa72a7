"""A pull: against the sandbox over HTTP, and against a listing that misbehaves."""

import pytest
from sqlalchemy import text

from mm_pipelines.delivery import custom_audience
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.tokens.counts import token_counts
from mm_pipelines.tokens.errors import (
    LossesNotAcceptedError,
    LossesUnconfirmedError,
    UnstableListingError,
)
from mm_pipelines.tokens.pull import PullReport, pull_tokens
from mm_pipelines.warehouse.database import Database
from tests.tokens.conftest import PAGE_ID, PEOPLE
from tests.tokens.listing import TokenListing, audience_made, opted_in


def test_a_pull_brings_every_token_once_and_one_per_recipient(
    client: GraphApiClient, database: Database
) -> None:
    report = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        counts = token_counts(connection, PAGE_ID)
    # A third of the people hold two or three tokens.
    assert report.merged.listed == report.merged.appeared == counts.live > PEOPLE
    assert counts.deduplicated == PEOPLE
    assert counts.duplicates == counts.live - PEOPLE


def test_pulling_again_changes_nothing_but_when_tokens_were_last_seen(
    client: GraphApiClient, database: Database
) -> None:
    rows = text("select * from mm.subscription_token order by token")
    pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        before = connection.execute(rows).mappings().all()
    again = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        after = connection.execute(rows).mappings().all()
    assert again.merged.appeared == again.merged.changed == again.merged.vanished == 0
    for old, new in zip(before, after, strict=True):
        assert old["last_seen_at"] < new["last_seen_at"]
        assert {**old, "last_seen_at": None} == {**new, "last_seen_at": None}


def test_metas_filters_give_the_source(client: GraphApiClient, database: Database) -> None:
    report = pull_tokens(client, database, PAGE_ID, removal_share=0.3)
    with database.transaction() as connection:
        counts = token_counts(connection, PAGE_ID)
    # The sandbox's people come by four ways in turn, one of which is no filter's.
    came = counts.by_source
    assert came["click_to_messenger"] + came["automation"] == report.sources_known
    assert 0 < came["opt_in"] == counts.live - report.sources_known
    assert came["automation"] > came["click_to_messenger"] > 0


def pull(
    listing: TokenListing, database: Database, *, accept_losses: bool = False, at_meta: bool = False
) -> PullReport:
    with listing.client() as client:
        return pull_tokens(
            client,
            database,
            PAGE_ID,
            removal_share=0.3,
            accept_losses=accept_losses,
            deduplicate_at_meta=at_meta,
        )


def live_tokens(database: Database) -> set[str]:
    with database.transaction() as connection:
        return set(
            connection.scalars(
                text("select token from mm.subscription_token where gone_at is null")
            )
        )


def test_a_listing_that_loses_its_place_is_read_again_from_the_top(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(2_500)], dead_cursors=2)
    report = pull(listing, database)
    assert report.restarts == 2
    assert report.merged.listed == report.rows == len(live_tokens(database)) == 2_500


def test_a_listing_that_never_holds_still_changes_nothing(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(2_500)], dead_cursors=99)
    with pytest.raises(UnstableListingError, match="nothing was merged"):
        pull(listing, database)
    assert live_tokens(database) == set()


def test_a_pull_that_breaks_off_marks_no_token_as_gone(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(2_500)])
    pull(listing, database)
    listing.tokens = listing.tokens[:1_500]

    def fail_on_the_second_page() -> None:
        if len(listing.calls) % 2:
            raise RuntimeError

    listing.calls.clear()
    listing.before_answer = fail_on_the_second_page
    with pytest.raises((RuntimeError, GraphApiError)):
        pull(listing, database)
    assert len(live_tokens(database)) == 2_500


@pytest.mark.parametrize("left", [0, 60])
def test_losing_more_than_the_share_stops_the_pull_until_it_is_accepted(
    database: Database, left: int
) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(100)])
    pull(listing, database)
    listing.tokens = listing.tokens[:left]
    with pytest.raises(LossesNotAcceptedError, match="accept_losses: true"):
        pull(listing, database)
    assert len(live_tokens(database)) == 100
    assert pull(listing, database, accept_losses=True).merged.vanished == 100 - left
    assert len(live_tokens(database)) == left


@pytest.mark.parametrize(("people", "left"), [(9, 0), (5, 2), (1, 0)])
def test_a_page_with_few_tokens_loses_them_only_if_two_pulls_find_the_same(
    database: Database, people: int, left: int
) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(people)])
    pull(listing, database)
    everyone, listing.tokens = listing.tokens, listing.tokens[:left]
    for _ in range(2):  # the second comes too soon
        with pytest.raises(LossesUnconfirmedError, match="5 minutes later") as unconfirmed:
            pull(listing, database)
    assert unconfirmed.value.wait_seconds == 300
    assert len(live_tokens(database)) == people
    listing.tokens = everyone
    pull(listing, database)
    begun_earlier(database, minutes=6)
    listing.tokens = everyone[:left]
    with pytest.raises(LossesUnconfirmedError):
        pull(listing, database)
    begun_earlier(database, minutes=6)
    assert pull(listing, database).merged.vanished == people - left


def begun_earlier(database: Database, minutes: int) -> None:
    with database.transaction() as connection:
        connection.execute(
            text("update mm.token_pull set started_at = started_at - make_interval(mins => :by)"),
            {"by": minutes},
        )


def test_tokens_without_a_known_recipient_are_counted(database: Database) -> None:
    tokens = [*(audience_made(n, "1") for n in range(3)), opted_in(1, 1), opted_in(2, 1)]
    pull(TokenListing(tokens), database)
    with database.transaction() as connection:
        counts = token_counts(connection, PAGE_ID)
    assert (counts.without_recipient, counts.with_recipient, counts.deduplicated) == (3, 2, 4)


def test_losses_within_the_share_are_believed(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(100)])
    pull(listing, database)
    listing.tokens = listing.tokens[:70]
    assert pull(listing, database).merged.vanished == 30


def test_tokens_that_are_listed_again_return(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(20)])
    pull(listing, database)
    everyone, listing.tokens = listing.tokens, listing.tokens[:15]
    pull(listing, database)
    listing.tokens = everyone
    assert pull(listing, database).merged.returned == 5
    with database.transaction() as connection:
        events = connection.execute(
            text("select event, count(*) from mm.token_event group by event order by event")
        ).all()
    assert [tuple(row) for row in events] == [("appeared", 20), ("returned", 5), ("vanished", 5)]


def known_audience(database: Database, audience_id: str) -> None:
    with database.transaction() as connection:
        custom_audience.record(
            connection, CustomAudience(f"audience_{audience_id}", audience_id, PAGE_ID, "9", "A")
        )


def test_an_audience_that_the_listing_does_not_name_is_asked_for(database: Database) -> None:
    known_audience(database, "1")
    known_audience(database, "2")
    listing = TokenListing([audience_made(1, "1"), audience_made(2), opted_in(3, 3)])
    listing.by_audience = {"2": [audience_made(2), opted_in(3, 3)]}
    assert pull(listing, database).audiences_asked == 1
    assert listing.asked("custom_audience_ids") == ["2"]
    with database.transaction() as connection:
        matched = connection.execute(
            text("select token, custom_audience_ids from mm.subscription_token order by token")
        ).all()
    assert [tuple(row) for row in matched] == [("a1", ["1"]), ("a2", ["2"]), ("o3", ["2"])]


def test_an_audience_whose_filter_answers_nothing_loses_no_one(database: Database) -> None:
    known_audience(database, "2")
    listing = TokenListing([audience_made(n) for n in range(150)])
    listing.by_audience = {"2": listing.tokens}
    pull(listing, database)
    listing.by_audience = {}
    report = pull(listing, database)
    assert report.merged.changed == report.merged.vanished == 0
    assert len(live_tokens(database)) == 150


def test_a_filter_that_meta_ignores_has_no_effect(database: Database) -> None:
    listing = TokenListing([opted_in(n, n) for n in range(2_500)], by_source=None)
    assert pull(listing, database).sources_known == 0
    # One page of each source is enough to see it.
    assert len(listing.asked("opt_in_source")) == 3
    with database.transaction() as connection:
        assert token_counts(connection, PAGE_ID).by_source["opt_in"] == 2_500


def test_how_people_came_is_asked_only_when_someone_new_came(database: Database) -> None:
    listing = TokenListing([opted_in(n, n) for n in range(5)])
    listing.by_source = {"CTM": [opted_in(1, 1)]}
    assert pull(listing, database).sources_known == 1
    listing.calls.clear()
    pull(listing, database)
    assert listing.asked("opt_in_source") == []
    with database.transaction() as connection:
        assert token_counts(connection, PAGE_ID).by_source["click_to_messenger"] == 1


def test_a_listing_deduplicated_at_meta_marks_no_token_as_gone(database: Database) -> None:
    listing = TokenListing([opted_in(n, n // 2) for n in range(200)])
    pull(listing, database)
    report = pull(listing, database, at_meta=True)
    assert report.pull.method == "deduplicated_at_meta"
    assert (report.merged.listed, report.merged.vanished) == (100, 0)
    assert len(live_tokens(database)) == 200


def test_at_ten_thousand_tokens_metas_deduplication_gives_way_to_ours(database: Database) -> None:
    listing = TokenListing([audience_made(n, "1") for n in range(10_500)])
    report = pull(listing, database, at_meta=True)
    assert report.pull.method == "listing"
    assert report.merged.listed == len(live_tokens(database)) == 10_500
