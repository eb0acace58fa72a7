"""Create, find and read Custom Audiences.

docs/graph-api.md#creating-a-custom-audience and the two headings after it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mm_pipelines.graph_api.answer import Answer, integer, text
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.epoch import epoch_time
from mm_pipelines.graph_api.errors import AmbiguousOutcomeError
from mm_pipelines.graph_api.paging import iter_rows

MESSENGER_AUDIENCES = '[{"field":"data_source.subtype","operator":"IN","value":[1010]}]'
"""Selects Messenger marketing audiences (docs/graph-api.md#listing-custom-audiences)."""

MATCH_FLOOR = 100
"""Meta withholds an audience's tokens below it (docs/graph-api.md#listing-tokens)."""

# The requested fields are exactly those that are read.
_FIELDS = (
    "id",
    "name",
    "messenger_marketing_messages_page",
    "approximate_count_lower_bound",
    "approximate_count_upper_bound",
    "delivery_status",
    "operation_status",
    "time_created",
)

# Meta advises it; larger reads may fail with code 1.
_LISTING_LIMIT = 20

_INTEGRITY_FLAG = 471


@dataclass(frozen=True, slots=True)
class AudienceStatus:
    """A status code with Meta's own words for it."""

    code: int
    description: str | None


@dataclass(frozen=True, slots=True)
class CustomAudience:
    """A Custom Audience as Meta describes it; a field that the answer lacks is None.

    Attributes:
        page_id: The Page that the audience makes subscribers for.
        approximate_count_lower_bound: Of the people in it; never negative.
        operation_status: 200 is normal; see `is_flagged`.
        delivery_status: 200 is ready, 300 too small, from 400 unusable.
    """

    id: str
    name: str | None = None
    page_id: str | None = None
    approximate_count_lower_bound: int | None = None
    approximate_count_upper_bound: int | None = None
    operation_status: AudienceStatus | None = None
    delivery_status: AudienceStatus | None = None
    time_created: datetime | None = None

    @property
    def is_flagged(self) -> bool:
        """Meta's integrity checks flagged it (code 471): its members cannot be changed."""
        return self.operation_status is not None and self.operation_status.code == _INTEGRITY_FLAG

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "CustomAudience":
        """An audience from its JSON object.

        Raises:
            UnreadableAnswerError: It has no id.
        """
        audience_id = text(row.get("id"))
        if audience_id is None:
            raise unreadable("a Custom Audience has no id")
        # A Page node by the SDK, an id by the name: both are read.
        page = row.get("messenger_marketing_messages_page")
        node: Mapping[str, Any] = page if isinstance(page, Mapping) else {"id": page}
        return cls(
            id=audience_id,
            name=text(row.get("name")),
            page_id=text(node.get("id")),
            approximate_count_lower_bound=_count(row.get("approximate_count_lower_bound")),
            approximate_count_upper_bound=_count(row.get("approximate_count_upper_bound")),
            operation_status=_status(row.get("operation_status")),
            delivery_status=_status(row.get("delivery_status")),
            time_created=epoch_time(row.get("time_created")),
        )


@dataclass(frozen=True, slots=True)
class UploadSessionStatus:
    """The state of an upload session; an alternative to the upload webhook, for polling."""

    session_id: str
    stage: str | None
    progress: str | None
    num_received: int | None
    num_invalid_entries: int | None
    num_matched: int | None
    end_time: datetime | None


def create_custom_audience(
    client: GraphApiClient, ad_account_id: str, *, name: str, description: str, page_id: str
) -> str:
    """Create a Messenger marketing messages audience; returns its id.

    Not repeatable: where the outcome is unknown, look for it by name before creating again, as
    `find_or_create_custom_audience` does.

    Raises:
        TermsNotAcceptedError: The Custom Audience terms are not accepted.
        AmbiguousOutcomeError: It may have been created.
        GraphApiError: As `GraphApiClient.request`.
    """
    body = {
        "name": name,
        "description": description,
        "subtype": "CUSTOM",
        "customer_file_source": "USER_PROVIDED_ONLY",
        "use_for_products": ["MARKETING_MESSAGES"],
        "subscription_info": ["MESSENGER"],
        "marketing_message_channels": {"MESSENGER": page_id},
    }
    return client.request(
        "POST",
        f"{_account(ad_account_id)}/customaudiences",
        _created_id,
        body=json.dumps(body).encode(),
        repeatable=False,
    )


def list_custom_audiences(client: GraphApiClient, ad_account_id: str) -> Iterator[CustomAudience]:
    """The ad account's Messenger marketing message audiences, as Meta lists them.

    Raises:
        GraphApiError: As `paging.iter_pages`.
    """
    rows = iter_rows(
        client,
        f"{_account(ad_account_id)}/customaudiences",
        {"fields": ",".join(_FIELDS), "filtering": MESSENGER_AUDIENCES},
        limit=_LISTING_LIMIT,
    )
    return map(CustomAudience.of, rows)


def find_custom_audience(
    client: GraphApiClient, ad_account_id: str, *, name: str, page_id: str
) -> CustomAudience | None:
    """The audience of that name for that Page; the oldest of several, None if there is none.

    Raises:
        GraphApiError: As `paging.iter_pages`.
    """
    namesakes = [
        audience
        for audience in list_custom_audiences(client, ad_account_id)
        if audience.name == name and audience.page_id == page_id
    ]
    # Every run must choose the same one: the oldest, then the smallest id.
    end_of_time = datetime.max.replace(tzinfo=UTC)
    return min(
        namesakes,
        key=lambda audience: (audience.time_created or end_of_time, len(audience.id), audience.id),
        default=None,
    )


def find_or_create_custom_audience(
    client: GraphApiClient, ad_account_id: str, *, name: str, description: str, page_id: str
) -> tuple[str, bool]:
    """The id of the audience of that name for that Page, and whether it was created now.

    If the outcome of the creation is unknown, the audience is looked up. Two callers at once could
    still create two: hold a lock per audience.

    Raises:
        AmbiguousOutcomeError: It may have been created but is not listed yet. Call again later.
        GraphApiError: As `create_custom_audience` and `list_custom_audiences`.
    """
    known = find_custom_audience(client, ad_account_id, name=name, page_id=page_id)
    if known is not None:
        return known.id, False
    try:
        created = create_custom_audience(
            client, ad_account_id, name=name, description=description, page_id=page_id
        )
    except AmbiguousOutcomeError:
        known = find_custom_audience(client, ad_account_id, name=name, page_id=page_id)
        if known is None:
            raise
        return known.id, True
    return created, True


def get_custom_audience(client: GraphApiClient, custom_audience_id: str) -> CustomAudience:
    """One audience with its bounds and statuses.

    Raises:
        NotFoundError: There is none, or the token has no access to it.
        GraphApiError: As `GraphApiClient.request`.
    """
    return client.request(
        "GET",
        custom_audience_id,
        lambda answer: CustomAudience.of(answer.document()),
        params={"fields": ",".join(_FIELDS)},
    )


def list_sessions(client: GraphApiClient, custom_audience_id: str) -> list[UploadSessionStatus]:
    """The audience's upload sessions, as Meta lists them.

    Raises:
        GraphApiError: As `paging.iter_pages`.
    """
    rows = iter_rows(client, f"{custom_audience_id}/sessions", {}, limit=100)
    return [
        UploadSessionStatus(
            session_id=session_id,
            stage=text(row.get("stage")),
            progress=text(row.get("progress")),
            num_received=integer(row.get("num_received")),
            num_invalid_entries=integer(row.get("num_invalid_entries")),
            num_matched=integer(row.get("num_matched")),
            end_time=epoch_time(row.get("end_time")),
        )
        for row in rows
        if (session_id := text(row.get("session_id"))) is not None
    ]


def _account(ad_account_id: str) -> str:
    return f"act_{ad_account_id.removeprefix('act_')}"


def _created_id(answer: Answer) -> str:
    """Read both documented shapes (docs/graph-api.md#q1-shape-of-the-create-answer)."""
    document = answer.document()
    rows = document.get("data")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    audience_id = text(document.get("id")) or text(first.get("id"))
    if audience_id is None:
        raise unreadable("the created Custom Audience has no id", answer.status)
    return audience_id


def _count(value: Any) -> int | None:
    """A bound; -1 means that there is none (inactive audiences)."""
    count = integer(value)
    return count if count is not None and count >= 0 else None


def _status(value: Any) -> AudienceStatus | None:
    code = integer(value.get("code")) if isinstance(value, Mapping) else None
    return AudienceStatus(code, text(value.get("description"))) if code is not None else None
