"""What can stop a pull of tokens, as one tree.

TokenPullError
├── UnstableListingError      the listing was never read to its end
├── LossesNotAcceptedError    too many live tokens would count as gone
└── LossesUnconfirmedError    a small Page lost tokens; a second pull must find the same
"""

from datetime import timedelta


class TokenPullError(Exception):
    """A pull ended without a merge; the table is unchanged."""


class UnstableListingError(TokenPullError):
    """The listing could not be read to its end, because its cursors expired."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"Cursors of Meta's token listing expired in {attempts} attempts, so the listing was "
            "never read to its end and nothing was merged. Run it again; if this repeats, at an "
            "hour with fewer opt-ins and opt-outs."
        )


class LossesNotAcceptedError(TokenPullError):
    """The listing lacks more of the Page's live tokens than `settings.removal_share` allows."""

    def __init__(self, vanished: int, live: int, share: float) -> None:
        super().__init__(
            f"Meta's listing lacks {vanished:,} of {live:,} live tokens, more than the "
            f"{share:.0%} that settings.removal_share allows, so nothing was merged. Look at the "
            "Page in Meta's Business Suite. If the people did unsubscribe, run this asset once "
            "with the config accept_losses: true. Otherwise run it again later."
        )


class LossesUnconfirmedError(TokenPullError):
    """The listing of a Page with few tokens lacks many of them, for the first time.

    Attributes:
        wait_seconds: When the listing should be read again.
    """

    def __init__(self, vanished: int, live: int, wait: timedelta) -> None:
        self.wait_seconds = wait.total_seconds()
        super().__init__(
            f"Meta's listing lacks {vanished:,} of the Page's {live:,} live tokens. Meta sometimes "
            "answers with an incomplete listing, so the tokens count as gone only if a pull "
            f"{wait.total_seconds() / 60:.0f} minutes later finds the same."
        )
