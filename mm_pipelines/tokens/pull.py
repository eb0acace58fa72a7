"""One pull of a Page's tokens: list them all, ask what the listing is silent on, merge once."""

from dataclasses import dataclass

from mm_pipelines.delivery import custom_audience
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.tokens import DEDUPLICATED_CAP
from mm_pipelines.tokens.errors import LossesNotAcceptedError
from mm_pipelines.tokens.listing import Listing
from mm_pipelines.tokens.pull_record import Pull, start_pull
from mm_pipelines.tokens.sources import attribute_sources
from mm_pipelines.tokens.subscription_token import Differences, Merged, staging, tidy
from mm_pipelines.warehouse.database import Database

# Fewer vanished tokens than this are never too many: one of three would be 33 %.
_FEW = 10


@dataclass(frozen=True)
class PullReport:
    """What a pull read and did.

    Attributes:
        pull: its id, and by which method it was read in the end.
        rows: rows that the listing held, tokens listed twice counted twice.
        restarts: times that the listing was read again from the top.
        audiences_asked: audiences that the listing did not name and that were asked for.
        sources_told: tokens for which a filter told how the person came; asked only after new
            tokens of people who are known.
        merged: what became of the tokens.
    """

    pull: Pull
    rows: int
    restarts: int
    audiences_asked: int
    sources_told: int
    merged: Merged


def pull_tokens(
    client: GraphApiClient,
    database: Database,
    page_id: str,
    *,
    removal_share: float,
    accept_losses: bool = False,
    deduplicate_at_meta: bool = False,
    suppression_key: bytes | None = None,
) -> PullReport:
    """List every token of a Page and merge the listing into `mm.subscription_token`.

    A pull that ends before its merge, for whatever reason, leaves the table as it was. Two pulls
    of a Page follow one another.

    Args:
        client: with the Page's token.
        database: with the schema `mm`.
        page_id: of the Page.
        removal_share: the share of the Page's live tokens that may vanish in one pull.
        accept_losses: let any number vanish.
        deduplicate_at_meta: let Meta leave out recipients' further tokens. No token counts as
            gone then, and at 10,000 tokens, where such a listing ends, all are listed after all.
        suppression_key: as for `subscription_token.staging`.

    Raises:
        UnstableListingError: cursors kept dying.
        LossesNotAcceptedError: more tokens would count as gone than `removal_share`.
        GraphApiError: as Meta answers.
    """
    with (
        database.lock(f"tokens:{page_id}"),
        staging(database, suppression_key) as staged,
    ):
        with database.transaction() as connection:
            pull = start_pull(
                connection,
                page_id,
                "deduplicated_at_meta" if deduplicate_at_meta else "listing",
            )
            audiences = {
                audience.custom_audience_id
                for audience in custom_audience.all_recorded(connection)
                if audience.page_id == page_id
            }
        listing = Listing(client, page_id, staged)
        listing.read(do_not_return_duplicates=deduplicate_at_meta)
        if deduplicate_at_meta and listing.rows >= DEDUPLICATED_CAP:
            pull = pull.switched_to("listing")
            listing.read(do_not_return_duplicates=False)
        silent = sorted(audiences - listing.audiences_named)
        for audience_id in silent:
            listing.read_audience(audience_id)
        differences = staged.compare(page_id, pull)
        if not accept_losses:
            _check_losses(differences, removal_share)
        merged = staged.merge(page_id, differences, pull)
        told = (
            attribute_sources(client, database, page_id, suppression_key) if merged.opted_in else 0
        )
        tidy(database)
    return PullReport(pull, listing.rows, listing.restarts, len(silent), told, merged)


def _check_losses(differences: Differences, removal_share: float) -> None:
    vanished, live = differences.vanished, differences.live_before
    if vanished >= _FEW and vanished > removal_share * live:
        raise LossesNotAcceptedError(vanished, live, removal_share)
