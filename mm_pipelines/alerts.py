"""Alerts about failed runs and checks, in the formats of Slack, Teams and plain JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

TIMEOUT_SECONDS = 10.0
_PARTITIONS_NAMED = 5


class AlertError(Exception):
    """An alert was not accepted. The message has no part of the address, which is a secret."""


@dataclass(frozen=True)
class Alert:
    """One kind of failure.

    Attributes:
        subject: The job, asset or check that failed.
        message: What happened and the next step, without personal data.
        partitions: The affected partitions.
        run_url: The newest of the runs, or the asset, in the Dagster UI.
        occurrences: How often it happened.
    """

    subject: str
    message: str
    partitions: tuple[str, ...]
    run_url: str
    occurrences: int = 1

    @property
    def text(self) -> str:
        """The alert as one paragraph."""
        named = ", ".join(self.partitions[:_PARTITIONS_NAMED])
        more = len(self.partitions) - _PARTITIONS_NAMED
        where = f" ({named}{f' and {more} more' if more > 0 else ''})" if named else ""
        times = f" {self.occurrences} times" if self.occurrences > 1 else ""
        return f"{self.subject}{where} failed{times}: {self.message} {self.run_url}"


def group(alerts: Sequence[Alert]) -> list[Alert]:
    """Merge alerts with the same subject and message; the newest comes last."""
    merged: dict[tuple[str, str], Alert] = {}
    for alert in alerts:
        known = merged.get((alert.subject, alert.message))
        if known is not None:
            partitions = tuple(dict.fromkeys((*known.partitions, *alert.partitions)))
            occurrences = known.occurrences + alert.occurrences
            alert = replace(alert, partitions=partitions, occurrences=occurrences)  # noqa: PLW2901
        merged[alert.subject, alert.message] = alert
    return list(merged.values())


def send(url: str, alerts: Sequence[Alert]) -> None:
    """Post the alerts to an incoming webhook.

    Args:
        url: ``MM_ALERT_WEBHOOK_URL``. Its host decides the format: Slack, Teams, else plain JSON.
        alerts: At least one.

    Raises:
        AlertError: The service did not accept them.
    """
    try:
        response = httpx.post(url, json=body_for(url, alerts), timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AlertError(
            f"The service at MM_ALERT_WEBHOOK_URL cannot be reached ({type(error).__name__}). "
            "The next tick sends the alerts again."
        ) from None
    if not response.is_success:
        raise AlertError(
            f"The service at MM_ALERT_WEBHOOK_URL answered {response.status_code}. Check the "
            "address. The next tick sends the alerts again."
        )


def body_for(url: str, alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return the JSON body in the format of the service at ``url``."""
    host = urlsplit(url).hostname or ""
    lines = [alert.text for alert in alerts]
    if host == "hooks.slack.com":
        return {"text": "\n".join(lines)}
    if host.endswith((".webhook.office.com", ".logic.azure.com", ".powerplatform.com")):
        card = {
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [{"type": "TextBlock", "text": line, "wrap": True} for line in lines],
        }
        content_type = "application/vnd.microsoft.card.adaptive"
        return {"type": "message", "attachments": [{"contentType": content_type, "content": card}]}
    return {"alerts": [asdict(alert) for alert in alerts]}
