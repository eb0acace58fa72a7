"""Who of some people has left, told by keyed digests of their hashed identifiers."""

from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from mm_pipelines.delivery.people import IDENTITY
from mm_pipelines.payload import suppression_digests
from mm_pipelines.warehouse import suppression
from mm_pipelines.warehouse.database import Database


@dataclass(frozen=True)
class Leavers:
    """Everybody who left, as far as they are known by e-mail or phone.

    Attributes:
        key: ``MM_SUPPRESSION_KEY``.
    """

    database: Database
    key: bytes = field(repr=False)

    def among(self, people: pl.LazyFrame, since: datetime | None = None) -> pl.DataFrame:
        """The identifiers in ``people`` that are suppressed; "" beside them where the other is not.

        Args:
            people: EMAIL and PHONE, hashed.
            since: Who was suppressed earlier is not looked for.

        Raises:
            SuppressionKeyChanged: Another key is in use.
        """
        with self.database.transaction() as connection:
            digests = suppression.suppressed_digests(connection, self.key, since)
        if not digests:
            return pl.DataFrame(schema=dict.fromkeys(IDENTITY, pl.String))
        left = pl.Series("digest", digests, dtype=pl.String).implode()
        kept = {
            name: pl.when(suppression_digests(pl.col(name), self.key).is_in(left))
            .then(pl.col(name))
            .otherwise(pl.lit(""))
            for name in IDENTITY
        }
        suppressed = people.select(**kept).filter(
            pl.any_horizontal(pl.col(name) != "" for name in IDENTITY)
        )
        return suppressed.collect(engine="streaming")
