"""Lists of made-up people for a flow of some days, and how many of them there are."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.webhooks.meta import PAGE_ID

AUDIENCES = ("acme_newsletter", "acme_loyalty", "globex_customers")
DAYS = 4
EVERY_DAY = 20
"""People of an audience who stand in each of its lists."""
ONE_DAY = 60
"""People who stand in one list only."""

_CONFIG = """
start_date: {start_date}
settings: {{batch_size: 10, token_pull_minutes: 0.25, minimum_upload: 0}}
pages:
  acme: {{page_id: "{page_id}", access_token_env: ACME_PAGE_TOKEN}}
  globex: {{page_id: "245252525235234", access_token_env: GLOBEX_PAGE_TOKEN}}
audiences:
"""

_AUDIENCE = """
  {audience}:
    page: {page}
    ad_account_id: "12348141984909088"
    name: {audience}
    description: Made-up people
    source: {{path: "{{audience}}/{{day}}.csv"}}
"""


@dataclass(frozen=True)
class Lists:
    """A configuration and its lists.

    Attributes:
        config: mm.yaml.
        partitions: The keys, one for each list.
        people: How many different people each audience has in the end.
    """

    config: Path
    partitions: list[str]
    people: int

    @classmethod
    def write(cls, folder: Path, *, of_days: int = DAYS) -> "Lists":
        """Write the lists of the last days, and a configuration that makes many batches of them."""
        today = datetime.now(UTC).date()
        days = [today - timedelta(days=days) for days in reversed(range(of_days))]
        config = _CONFIG.format(start_date=days[0], page_id=PAGE_ID)
        partitions = []
        for audience in AUDIENCES:
            config += _AUDIENCE.format(audience=audience, page=audience.split("_")[0])
            (folder / audience).mkdir(parents=True)
            for day in days:
                names = [f"always{number}" for number in range(EVERY_DAY)]
                names += [f"on{day}.{number}" for number in range(ONE_DAY)]
                rows = [f"{name}@{audience}.example.com".replace("_", "-") for name in names]
                (folder / audience / f"{day}.csv").write_text("\n".join(["email", *rows]) + "\n")
                partitions.append(f"{audience}|{day}")
        path = folder / "mm.yaml"
        path.write_text(config)
        return cls(path, partitions, EVERY_DAY + of_days * ONE_DAY)
