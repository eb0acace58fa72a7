"""What can stop a pull of tokens, as one tree.

TokenPullError
├── UnstableListingError     its cursors died again and again
└── LossesNotAcceptedError   too many live tokens would count as gone
"""


class TokenPullError(Exception):
    """A pull ended without a merge; the table is as it was."""


class UnstableListingError(TokenPullError):
    """The listing could not be read to its end, because its cursors kept dying."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"Meta's listing of tokens lost its place {attempts} times and was never read to its "
            "end; nothing was merged. Run it again, at a quieter hour if this goes on"
        )


class LossesNotAcceptedError(TokenPullError):
    """The listing lacks more of the Page's live tokens than `settings.removal_share` allows."""

    def __init__(self, vanished: int, live: int, share: float) -> None:
        super().__init__(
            f"Meta's listing lacks {vanished:,} of {live:,} live tokens, more than the "
            f"{share:.0%} that settings.removal_share allows, so nothing was merged. Look at the "
            "Page in Meta's Business Suite. If they did leave, run this asset once with the "
            "config accept_losses: true; otherwise run it again later"
        )
