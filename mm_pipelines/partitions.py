"""The partitions of every asset, made from ``mm.yaml``, and the parsing of their keys."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self

import dagster as dg

from mm_pipelines.config import config_path, load_config
from mm_pipelines.lists import RowSource
from mm_pipelines.lists.configured import customer_source, removal_sources

CONFIG = load_config(config_path())

AUDIENCE = dg.StaticPartitionsDefinition(list(CONFIG.audiences))
PAGE = dg.StaticPartitionsDefinition(list(CONFIG.pages))


def _days_since(first: date) -> dg.DailyPartitionsDefinition:
    # The offset adds the current day: its list has a partition before the day has ended.
    start = datetime.combine(first, time())
    return dg.DailyPartitionsDefinition(start_date=start, timezone=CONFIG.timezone, end_offset=1)


DAY = _days_since(CONFIG.start_date)
# Consent has no start date: with one in the future, a Page has partitions of the last days. Several
# days, because a run may start after the midnight that follows its request.
FIRST_PAGE_DAY = min(CONFIG.start_date, datetime.now(CONFIG.zone).date() - timedelta(days=7))
AUDIENCE_BY_DAY = dg.MultiPartitionsDefinition({"audience": AUDIENCE, "day": DAY})
PAGE_BY_DAY = dg.MultiPartitionsDefinition({"page": PAGE, "day": _days_since(FIRST_PAGE_DAY)})


@dataclass(frozen=True)
class AudienceDay:
    """One day of one audience: a partition of the delivery assets."""

    audience: str
    day: date

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> Self:
        """The run's partition.

        Raises:
            dagster.Failure: The run has a range of partitions.
        """
        keys = _single_key(context)
        return cls(audience=keys["audience"], day=date.fromisoformat(keys["day"]))

    @property
    def customer_list(self) -> RowSource:
        """The day's customer list, which may not exist yet."""
        return customer_source(CONFIG, self.audience, self.day)

    @property
    def removal_lists(self) -> list[RowSource]:
        """The day's lists of people to remove from the audience."""
        return removal_sources(CONFIG, self.audience, self.day)

    @property
    def key(self) -> dg.MultiPartitionKey:
        """The key as Dagster writes it: ``acme_newsletter|2026-11-20``."""
        return dg.MultiPartitionKey({"audience": self.audience, "day": self.day.isoformat()})


@dataclass(frozen=True)
class PageDay:
    """One day of one Page: a partition of the assets about opt-ins and opt-outs."""

    page: str
    day: date

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> Self:
        """The run's partition.

        Raises:
            dagster.Failure: The run has a range of partitions.
        """
        keys = _single_key(context)
        return cls(page=keys["page"], day=date.fromisoformat(keys["day"]))

    @property
    def begins_at(self) -> datetime:
        """The start of the day, in mm.yaml's time zone."""
        return datetime.combine(self.day, time(), CONFIG.zone)

    @property
    def ends_at(self) -> datetime:
        """The start of the next day."""
        return datetime.combine(self.day + timedelta(days=1), time(), CONFIG.zone)

    @property
    def key(self) -> dg.MultiPartitionKey:
        """The key as Dagster writes it: ``2026-11-20|acme``."""
        return dg.MultiPartitionKey({"page": self.page, "day": self.day.isoformat()})


def single_partition(context: dg.AssetExecutionContext) -> str:
    """The run's one partition key, for the assets with one dimension.

    Raises:
        dagster.Failure: The run has a range of partitions.
    """
    if len(context.partition_keys) != 1:
        raise dg.Failure(
            f"This run has {len(context.partition_keys)} partitions, and this asset takes one. "
            "Launch a backfill, which creates one run for each partition.",
            allow_retries=False,
        )
    return str(context.partition_key)


def _single_key(context: dg.AssetExecutionContext) -> dict[str, str]:
    single_partition(context)
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)  # noqa: S101 - by the asset's definition
    return dict(key.keys_by_dimension)
