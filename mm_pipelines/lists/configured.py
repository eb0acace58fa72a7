"""The lists that mm.yaml describes, for one audience and day."""

from datetime import date

from mm_pipelines.config import Config, ListSource
from mm_pipelines.lists.location import list_url
from mm_pipelines.lists.query import QuerySource
from mm_pipelines.lists.source import FileSource, RowSource


def customer_source(config: Config, audience: str, day: date) -> RowSource:
    """The day's customer list of an audience."""
    source = config.audiences[audience].source
    if source.path is not None:
        url = list_url(source.path, config.directory, audience=audience, day=day)
        return FileSource(url, source.columns, source.encoding, source.consent)
    query = config.directory / source.query_file if source.query_file else source.query
    return QuerySource(
        source.query_file or f"the query of {audience}",
        query or "",
        source.connection_env or "",
        audience=audience,
        day=day,
        key=source.key,
        timeout_minutes=source.timeout_minutes,
        columns=source.columns,
        consent=source.consent,
    )


def removal_sources(config: Config, audience: str, day: date) -> list[RowSource]:
    """The day's lists of people to remove: the audience's own, and the one of all audiences."""

    def removal_source(source: ListSource) -> FileSource:
        url = list_url(source.path, config.directory, audience=audience, day=day)
        # People who are removed need not have agreed to anything.
        return FileSource(url, source.columns, source.encoding, consent="ignore")

    sources = (config.audiences[audience].removals, config.removals)
    return [removal_source(source) for source in sources if source is not None]
