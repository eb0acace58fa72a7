"""One pull of a Page's tokens: list all, query the audiences that the listing omits, merge once."""

from dataclasses import dataclass
from datetime import timedelta

from mm_pipelines.delivery import custom_audience
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.tokens import DEDUPLICATED_CAP
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.errors import LossesNotAcceptedError, LossesUnconfirmedError
from mm_pipelines.tokens.listing import Listing
from mm_pipelines.tokens.pull_record import Pull, note_losses, start_pull
from mm_pipelines.tokens.sources import attribute_sources
from mm_pipelines.tokens.subscription_token import Differences, Merged, staging, tidy
from mm_pipelines.warehouse.database import Database

# Of fewer vanished tokens a share says little: one of three is 33 %. A second pull confirms them.
_FEW = 10
_CONFIRMED_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class PullReport:
    """What a pull read and did.

    Attributes:
        pull: Its id, and the method by which it was read in the end.
        rows: Rows of the listing; a token listed twice counts twice.
        restarts: How often the listing was read again from the top.
        audiences_asked: Audiences that the listing did not name and that were queried.
        sources_known: Tokens whose source a filter of the listing gave; queried only after new
            tokens with a known recipient.
        merged: What became of the tokens.
    """

    pull: Pull
    rows: int
    restarts: int
    audiences_asked: int
    sources_known: int
    merged: Merged


def pull_tokens(
    client: GraphApiClient,
    database: Database,
    page_id: str,
    *,
    removal_share: float,
    accept_losses: bool = False,
    deduplicate_at_meta: bool = False,
    suppression_keys: SuppressionKeys | None = None,
) -> PullReport:
    """List every token of a Page and merge the listing into `mm.subscription_token`.

    A pull that ends before its merge leaves the table unchanged.

    Args:
        client: With the Page's token.
        database: With the schema `mm`.
        page_id: The Page.
        removal_share: The share of the Page's live tokens that may vanish in one pull.
        accept_losses: Let any number vanish.
        deduplicate_at_meta: Let Meta leave out recipients' further tokens. No token counts as
            gone then, and at 10,000 tokens, where such a listing ends, all are listed after all.
        suppression_keys: As for `subscription_token.staging`.

    Raises:
        UnstableListingError: Cursors kept expiring.
        LossesNotAcceptedError: More tokens would count as gone than `removal_share` allows.
        LossesUnconfirmedError: The same, of fewer than ten tokens, found for the first time.
        LockTakenError: Another run pulls the Page's tokens.
        GraphApiError: See `graph_api.errors`.
    """
    with (
        database.lock(f"tokens:{page_id}"),
        staging(database, suppression_keys) as staged,
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
            _check_losses(database, pull, differences, removal_share)
        merged = staged.merge(page_id, differences, pull)
        attributed = (
            attribute_sources(client, database, page_id, suppression_keys) if merged.opted_in else 0
        )
        tidy(database)
    return PullReport(pull, listing.rows, listing.restarts, len(silent), attributed, merged)


def _check_losses(
    database: Database, pull: Pull, differences: Differences, removal_share: float
) -> None:
    vanished, live = differences.vanished, differences.live_before
    if vanished <= removal_share * live:
        return
    if vanished >= _FEW:
        raise LossesNotAcceptedError(vanished, live, removal_share)
    with database.transaction() as connection:
        confirmed = note_losses(connection, pull, vanished, apart=_CONFIRMED_AFTER)
    if not confirmed:
        raise LossesUnconfirmedError(vanished, live, _CONFIRMED_AFTER)
