"""The settings of a sandbox. They are passed in; nothing is read from the environment here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Variants(BaseModel):
    """The behaviors on which Meta's documentation is silent or contradicts itself.

    Each default is the likelier form. Variants can be changed while the sandbox runs (`POST
    /_sandbox/variants`), or for single calls by a fault.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    create_shape: Literal["wrapped", "top_level"] = Field(
        default="wrapped",
        description="The answer to a creation: {data: [{id}]} as in the guide, or {id}.",
    )
    invalid_samples: Literal["map", "array", "empty_map", "empty_array"] = Field(
        default="map",
        description="invalid_entry_samples: {row index: row as JSON}, [row as JSON], or empty.",
    )
    messenger_error: bool = Field(
        default=False,
        description="Answer uploads with 200 and subscription_info.messenger.error; apply nothing.",
    )
    subscribers: Literal["accepted", "none", "invalid"] = Field(
        default="accepted",
        description="What Messenger makes of an upload's rows. none: it receives no subscriber; "
        "invalid: it receives every row and rejects it. The rows join the audience all the same, "
        "but yield no token.",
    )
    batch_lost: bool = Field(
        default=False,
        description="Answer an upload or removal with 200, apply nothing and leave the batch out "
        "of num_received.",
    )
    match_threshold: Literal["audience", "session", "discard"] = Field(
        default="audience",
        description="What '100 or more users matched in the upload' means. audience: an audience "
        "with fewer matches hides its tokens; session: only sessions with so many matches earn "
        "tokens, members sent again included; discard: as session, and the new rows of a session "
        "with fewer matches are discarded when its last batch is matched, unless a batch still to "
        "be matched contains them too.",
    )
    envelope: Literal["changes", "changes_bare_value", "bare"] = Field(
        default="changes",
        description="The upload webhook: changes with the field repeated inside the value, changes "
        "without it, or the bare object of Meta's guide.",
    )
    upload_object: Literal["page", "ad_account", "both"] = Field(
        default="page", description="The object under which upload webhooks are sent."
    )
    upload_status: str = Field(
        default="SUCCESS",
        description="batch_uploading_status; a batch with another status yields no tokens.",
    )
    webhook_entry_time: Literal["milliseconds", "seconds"] = Field(
        default="milliseconds",
        description="entry.time of a Page's webhooks. Milliseconds differ for every webhook; two "
        "webhooks of one second are equal in seconds.",
    )
    empty_listing: bool = Field(
        default=False, description="Answer a token listing as if the Page had no tokens."
    )
    short_pages: bool = Field(
        default=False,
        description="List tokens in uneven pages, every third one empty, all with a next.",
    )
    timestamp_unit: Literal["seconds", "milliseconds"] = Field(
        default="seconds", description="The unit of a token's times, which Meta does not state."
    )
    optin_response: Literal["nested", "flat"] = Field(
        default="nested",
        description="The answer to an opt-in request: message_id inside recipient, or beside it.",
    )
    optin_status_spelling: Literal["spaces", "underscores"] = Field(
        default="underscores", description="STOP NOTIFICATIONS as documented, or as seen in code."
    )


class Settings(BaseModel):
    """One sandbox: its access tokens, how it matches people, and where it sends webhooks.

    Without a system-user token and without a Page token, any token is accepted for every call and
    every ad account may use every Page. Otherwise only the given tokens work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_file: Path | None = Field(
        default=None, description="The SQLite file that holds everything; None keeps it in memory."
    )
    webhook_url: str | None = Field(
        default=None,
        description="The receiver. None: the callback registered through POST /<APP_ID>/"
        "subscriptions, and until then webhooks are not sent.",
    )
    app_id: str = "1231312312312301"
    app_secret: SecretStr = SecretStr("sandbox-app-secret")
    webhook_verify_token: SecretStr = SecretStr("sandbox-verify-token")
    system_user_tokens: tuple[SecretStr, ...] = ()
    page_tokens: Mapping[str, SecretStr] = Field(
        default_factory=dict, description="The Page access token of each Page id."
    )
    ad_accounts: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="The Page ids each ad account (digits, without act_) may target. Empty: all.",
    )
    business_id: str = "9231312312312309"
    seed: int = 20261101
    match_rate: float = Field(default=0.6, ge=0, le=1, description="Share of people matched.")
    match_delay_seconds: float = Field(default=1.0, ge=0)
    match_jitter_seconds: float = Field(
        default=1.0, ge=0, description="Added to the delay, between zero and this, per batch."
    )
    audience_floor: int = Field(
        default=100, ge=0, description="Matches needed for tokens; see the variant match_threshold."
    )
    optin_people_per_page: int = Field(
        default=300, ge=0, description="People who opted in before the sandbox starts."
    )
    old_topic_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of matched people who also hold a token of an old topic, with their "
        "Page-scoped ID; their token from the audience has no recipient_id.",
    )
    session_window_minutes: float = Field(default=90, gt=0)
    enforce_appsecret_proof: bool = False
    require_subscriptions: bool = Field(
        default=False,
        description="Deliver a field only if app and Page (or ad account) both subscribed to it.",
    )
    webhook_timeout_seconds: float = Field(default=5.0, gt=0)
    webhook_backoff_seconds: float = Field(
        default=0.5, gt=0, description="First pause after a refused webhook; doubles up to 10 s."
    )
    variants: Variants = Field(default_factory=Variants)

    @property
    def accepts_any_token(self) -> bool:
        """Whether any token is accepted, because none is configured."""
        return not self.system_user_tokens and not self.page_tokens
