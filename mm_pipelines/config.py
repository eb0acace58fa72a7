"""``mm.yaml`` as typed models. All faults are reported at once, each with its line.

Scalars are read as text and typed by the models, so an id keeps its leading zeros and the country
code ``NO`` stays Norway instead of becoming false.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from mm_pipelines.identity.keys import COLUMNS, IDENTIFIERS

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
MetaId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
# A token given instead of a variable matches the pattern of a name, but is longer than a name.
EnvironmentVariable = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)
]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$", to_upper=True)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Location = tuple[str, ...]

DEFAULT_SYSTEM_USER_TOKEN_ENV = "MM_SYSTEM_USER_TOKEN"  # noqa: S105 - a variable's name


@dataclass(frozen=True)
class Fault:
    """One fault and its place: file, line and key, or the environment variable."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(Exception):
    """The configuration is invalid; ``faults`` lists every fault."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


def _known_timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is not an IANA time zone. Use a name such as Europe/Berlin.")
    return name


def _without_account_prefix(value: object) -> object:
    # The Graph API shows the id with this prefix, so people copy it.
    return value.removeprefix("act_") if isinstance(value, str) else value


def _only_placeholders(*names: str) -> AfterValidator:
    def check(path: str) -> str:
        try:
            used = {name for _, name, _, _ in Formatter().parse(path) if name is not None}
        except ValueError as error:
            raise ValueError(f"unbalanced brace in the path: {error}") from None
        unknown = sorted(used - set(names))
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}. Use only {known}.")
        return path

    return AfterValidator(check)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _duration(value: object) -> timedelta:
    match = _DURATION.fullmatch(str(value).strip().lower())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{value!r} is not a duration. Write one such as 90m, 36h or 8d.")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


Duration = Annotated[
    timedelta, BeforeValidator(_duration), WithJsonSchema({"type": "string"}, mode="validation")
]


def _key_parts(value: object) -> object:
    return value.split("/") if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Model):
    """Optional settings. docs/configuration.md describes each."""

    batch_size: int = Field(10_000, ge=1, le=10_000, description="Rows of one batch.")
    sessions_side_by_side: int = Field(
        1, ge=1, le=16, description="Upload sessions of one audience that run at the same time."
    )
    overdue_hours: float = Field(
        24, gt=0, description="Hours without a report after which a day's match status is overdue."
    )
    removal_share: float = Field(
        0.30,
        ge=0,
        le=1,
        description="Mirror mode stops if it would remove more than this share of the members.",
    )
    delete_via_post: bool = Field(
        False,
        description="Send removals as POST with method=DELETE: some proxies drop DELETE bodies.",
    )
    token_pull_minutes: float = Field(
        15, ge=0, description="Least minutes between two pulls of a Page's tokens by the sensors."
    )
    retention_days: int = Field(
        90,
        ge=1,
        description="Days until processed events, conversations, opt-in requests, rejected rows, "
        "and tokens that are gone are removed.",
    )
    run_retention_days: int = Field(
        90,
        ge=1,
        description="Days until runs, their events and logs, and ticks are deleted from Dagster's "
        "storage. The run of a partition's newest materialization stays.",
    )
    payload_days: int = Field(
        2, ge=1, description="Days until delivered payloads and deltas are removed."
    )
    minimum_upload: int = Field(
        1000,
        ge=0,
        le=10_000,
        description="Rows that an upload has at least: a smaller one is filled up with members, "
        "because Meta gives tokens only if 100 people match in an upload. 0 switches it off.",
    )
    unsubscribe_chunk: int = Field(
        1000, ge=1, le=1000, description="Rows of one call to Meta's unsubscribe edge."
    )
    fresh_within: Duration = Field(
        "36h",
        validate_default=True,
        description="The check `fresh` fails if no list of an audience was uploaded, or no tokens "
        "of a Page were pulled, for so long: 90m, 36h or 8d.",
    )


class Unsubscribes(_Model):
    """The location of a Page's daily opt-out list. A day may have none."""

    path: Annotated[Text, _only_placeholders("page", "day")] = Field(
        "unsubscribes/{page}/{day}.csv",
        description="Location of the daily opt-out list, with {page} and {day}.",
    )
    default_country: Country | None = Field(
        None,
        description="Country of phone numbers without a country code. "
        "By default the country that all audiences of the Page share.",
    )


class OptIn(_Model):
    """The opt-in request sent to people who write to the Page."""

    title: Annotated[Text, StringConstraints(max_length=65)] = Field(
        description="Title of the request, at most 65 characters."
    )
    image_url: Annotated[Text, StringConstraints(pattern=r"^https://")] = Field(
        description="Image of the request, an https:// address."
    )
    payload: str = Field("", description="Text that Meta returns with the opt-in's webhook.")
    cta: Literal["ALLOW", "GET", "GET_UPDATES", "OPT_IN", "SIGN_UP"] | None = Field(
        None, description="Label of the button. By default Meta chooses it."
    )


class Page(_Model):
    """A Facebook Page; its key is also its partition key.

    Without ``optin``, no opt-in requests are sent.
    """

    page_id: MetaId = Field(description="The Page's id at Meta.")
    access_token_env: EnvironmentVariable = Field(
        description="Name of the environment variable that holds the Page access token."
    )
    unsubscribes: Unsubscribes = Field(Unsubscribes(), description="The Page's opt-out lists.")
    optin: OptIn | None = Field(
        None, description="The opt-in request sent to people who write to the Page."
    )
    fresh_within: Duration | None = Field(
        None, description="The Page's own limit, instead of settings.fresh_within."
    )


def _schema_key(name: str) -> str:
    if name not in COLUMNS:
        raise ValueError(f"{name!r} is not a schema key. The keys are {', '.join(COLUMNS)}.")
    return name


def _with_identifier(columns: dict[str, str]) -> dict[str, str]:
    if columns and not set(IDENTIFIERS) & set(columns):
        raise ValueError(
            "the mapping has neither EMAIL nor PHONE, so every list would be refused. Map one of "
            "them, or remove columns so that known headers are recognized."
        )
    return columns


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(
            f"{name!r} is not a text encoding. Use a name such as utf-8 or windows-1250."
        ) from None
    return name.lower()


ListPath = Annotated[Text, _only_placeholders("audience", "day")]
_PATH = "Location relative to mm.yaml, or any fsspec URL, with {audience} and {day}."


class _ListForm(_Model):
    columns: Annotated[
        dict[Annotated[str, AfterValidator(_schema_key)], Text], AfterValidator(_with_identifier)
    ] = Field(
        default_factory=dict,
        description="Headers by schema key. By default known headers are recognized.",
    )
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = Field(
        None, description="Text encoding of the lists. By default it is detected."
    )


class ListSource(_ListForm):
    """The location and form of a list.

    ``path`` is relative to mm.yaml, or any fsspec URL. ``columns`` maps schema keys to headers.
    ``encoding`` replaces the detected one.
    """

    path: ListPath = Field(description=_PATH)


class ConsentColumn(_Model):
    """The column of a list that records consent, and the cells that grant it.

    Cells are compared without case and surrounding spaces.
    """

    column: Text = Field(description="Header of the column.")
    yes: tuple[Text, ...] = Field(min_length=1, description="Cells that grant consent.")


def _ignore_or_column(value: object) -> str:
    return "[ignore]" if isinstance(value, str) else "[column]"


class Source(_ListForm):
    """A day's list of customers: files at ``path``, or the rows of a query.

    ``consent`` names the column that records it; ``ignore`` accepts a list that records none.
    """

    path: ListPath | None = Field(None, description=_PATH)
    query: Text | None = Field(
        None,
        description="A SELECT whose rows are the list, with :day, :previous_day and :audience. "
        "docs/sources.md has examples.",
    )
    query_file: Text | None = Field(
        None, description="File with the query, relative to mm.yaml, in place of `query`."
    )
    connection_env: EnvironmentVariable | None = Field(
        None,
        description="Name of the environment variable that holds the URL of the query's database.",
    )
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        None, description="A unique column of the query, by which its rows are ordered."
    )
    timeout_minutes: float = Field(60, gt=0, description="Minutes that the query may take.")
    consent: (
        Annotated[
            Annotated[ConsentColumn, Tag("[column]")]
            | Annotated[Literal["ignore"], Tag("[ignore]")],
            Discriminator(_ignore_or_column),
        ]
        | None
    ) = Field(
        None,
        description="The column that records consent, or `ignore` to accept lists without one. "
        "By default known consent columns are recognized.",
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Source":
        given = [name for name in ("path", "query", "query_file") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give exactly one of path, query and query_file")
        for name, of_query in (("connection_env", True), ("key", True), ("encoding", False)):
            if getattr(self, name) and of_query == bool(self.path):
                raise ValueError(f"{name} does not belong to {given[0]}. Remove it.")
        if not self.path and not self.connection_env:
            raise ValueError(
                f"{given[0]} needs connection_env: the name of the environment variable that "
                "holds the URL of the database"
            )
        return self


class Audience(_Model):
    """A Custom Audience and the lists that feed it; its key is also its partition key."""

    page: str = Field(description="Key of the Page that the audience's subscribers belong to.")
    ad_account_id: Annotated[MetaId, BeforeValidator(_without_account_prefix)] = Field(
        description="Id of the ad account, with or without act_."
    )
    system_user_token_env: EnvironmentVariable = Field(
        DEFAULT_SYSTEM_USER_TOKEN_ENV,
        description="Name of the environment variable that holds the system user token.",
    )
    name: Text = Field(description="Name of the Custom Audience at Meta.")
    description: Text = Field(description="Description of the Custom Audience at Meta.")
    mode: Literal["append", "mirror"] = Field(
        "append",
        description="append adds the people of each list; mirror makes the day's list the whole "
        "membership.",
    )
    default_country: Country | None = Field(
        None, description="Country of phone numbers without a country code."
    )
    source: Source = Field(description="The audience's daily customer lists.")
    upstream: tuple[Text, ...] = Field(
        (),
        description="Key of another team's asset that the lists are made from, part by part, such "
        "as [dbt, customers].",
    )
    removals: ListSource | None = Field(
        None, description="Daily lists of people to remove from this audience only."
    )
    fresh_within: Duration | None = Field(
        None,
        description="The audience's own limit, such as 8d for a weekly list, instead of "
        "settings.fresh_within.",
    )


class Config(_Model):
    """The content of ``mm.yaml``."""

    start_date: date = Field(description="First day of the day partitions.")
    timezone: Annotated[str, AfterValidator(_known_timezone)] = Field(
        "UTC", description="IANA time zone of the day partitions and of the schedules."
    )
    asset_key_prefix: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], ...],
        BeforeValidator(_key_parts),
    ] = Field(
        (),
        description="Prefix of every asset key, such as `marketing/messenger`, and of the names "
        "of jobs, sensors and schedules; for a code location that also has other assets.",
    )
    settings: Settings = Field(Settings(), description="Optional settings.")
    removals: ListSource | None = Field(
        None, description="Daily lists of people to remove from every audience."
    )
    pages: dict[Key, Page] = Field(
        min_length=1, description="Facebook Pages by key; a key is also a partition key."
    )
    audiences: dict[Key, Audience] = Field(
        min_length=1, description="Custom Audiences by key; a key is also a partition key."
    )
    _directory: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _audiences_are_distinct(self) -> "Config":
        # An existing Custom Audience is found by its Page and name.
        seen: dict[tuple[str, str, str], str] = {}
        for key, audience in self.audiences.items():
            identity = (audience.ad_account_id, audience.page, audience.name)
            if identity in seen:
                raise ValueError(
                    f"audiences {seen[identity]} and {key} have the same page, ad_account_id and "
                    "name, so they would be one Custom Audience. Rename one."
                )
            seen[identity] = key
        page_ids = [page.page_id for page in self.pages.values()]
        if len(set(page_ids)) < len(page_ids):
            raise ValueError("two pages have the same page_id. Keep one of them.")
        return self

    @model_validator(mode="after")
    def _keep_directory(self, info: ValidationInfo) -> "Config":
        self._directory = info.context or Path.cwd()
        return self

    @property
    def directory(self) -> Path:
        """The folder of ``mm.yaml``; relative list paths start there."""
        return self._directory

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the day partitions."""
        return ZoneInfo(self.timezone)

    def dagster_name(self, name: str) -> str:
        """Return the name in Dagster of a job, sensor or schedule of ours."""
        return "_".join((*self.asset_key_prefix, name))

    def asset_path(self, name: str) -> list[str]:
        """Return the parts of the key in Dagster of an asset of ours."""
        return [*self.asset_key_prefix, name]

    def page_of(self, audience: str) -> Page:
        """Return the Page of an audience."""
        return self.pages[self.audiences[audience].page]

    def audiences_of(self, page: str) -> list[str]:
        """Return the keys of a Page's audiences, in the file's order."""
        return [key for key, audience in self.audiences.items() if audience.page == page]

    def upstream_assets(self) -> dict[tuple[str, ...], list[str]]:
        """Return the keys of other teams' assets, each with the audiences made from it."""
        audiences: dict[tuple[str, ...], list[str]] = {}
        for key, audience in self.audiences.items():
            if audience.upstream:
                audiences.setdefault(audience.upstream, []).append(key)
        return audiences

    def connection_variables(self) -> list[str]:
        """Return the environment variables of the queries' databases, each once."""
        names = [audience.source.connection_env for audience in self.audiences.values()]
        return list(dict.fromkeys(name for name in names if name))

    def token_variables(self) -> list[str]:
        """Return the environment variables of access tokens, each once, in the file's order."""
        names = [audience.system_user_token_env for audience in self.audiences.values()]
        names += [page.access_token_env for page in self.pages.values()]
        return list(dict.fromkeys(names))


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of ``mm.yaml``: ``MM_CONFIG``, or the file in the working directory."""
    return Path(environment.get("MM_CONFIG") or "mm.yaml")


def load_config(path: Path) -> Config:
    """Read and check ``mm.yaml``.

    Raises:
        ConfigError: The file is missing, is not YAML, or breaks a rule. It lists every fault.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = "the file does not exist. Write it (docs/configuration.md) or set MM_CONFIG."
        raise ConfigError([Fault(str(path), message)]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([Fault(str(path), f"cannot be read: {reason}")]) from None
    try:
        root = yaml.compose(content, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        message = f"this is not YAML: {error.problem}"
        raise ConfigError([Fault(f"{path}, line {line}", message)]) from None
    if not isinstance(root, yaml.MappingNode):
        message = "has no keys. It needs start_date, pages and audiences."
        raise ConfigError([Fault(str(path), message)])
    lines = dict(_lines(root))
    faults = [
        Fault(_place(path, location, lines), "this key occurs twice. Keep one of them.")
        for location in _repeated_keys(root)
    ]
    document = yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader creates only text
    config = None
    try:
        config = Config.model_validate(document, context=path.absolute().parent)
    except ValidationError as error:
        faults += [
            Fault(_place(path, _text_location(detail["loc"]), lines), _sentence(detail))
            for detail in error.errors(include_url=False, include_context=False)
        ]
    faults += [
        Fault(_place(path, location, lines), message)
        for location, message in _unknown_pages(document)
    ]
    if faults or config is None:
        raise ConfigError(faults)
    return config


def environment_faults(
    config: Config, environment: Mapping[str, str] = os.environ
) -> Iterator[Fault]:
    """Yield the tokens and secrets that ``config`` needs and the environment lacks."""
    for name in config.token_variables():
        if not environment.get(name):
            yield Fault(name, "is not set. mm.yaml names it as the variable of an access token.")
    for name in config.connection_variables():
        if not environment.get(name):
            yield Fault(name, "is not set. mm.yaml names it as the address of a database.")
    for name in ("MM_APP_ID", "MM_APP_SECRET", "MM_WEBHOOK_VERIFY_TOKEN"):
        if not environment.get(name):
            yield Fault(name, "is not set. The webhook receiver needs it.")


def _unknown_pages(document: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    # Checked on the document, so that it is reported together with the faults of the models.
    pages, audiences = document.get("pages"), document.get("audiences")
    if not isinstance(pages, dict) or not isinstance(audiences, dict):
        return
    for key, audience in audiences.items():
        page = audience.get("page") if isinstance(audience, dict) else None
        if isinstance(page, str) and page not in pages:
            known = ", ".join(pages)
            yield ("audiences", key, "page"), f"there is no page {page!r}. The pages are {known}."


def _lines(node: yaml.Node, location: Location = ()) -> Iterator[tuple[Location, int]]:
    yield location, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, str(key.value))
            yield from _lines(value, inner)
            yield inner, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*location, str(index)))


def _repeated_keys(node: yaml.Node, location: Location = ()) -> Iterator[Location]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*location, str(key.value))
            if key.value in seen:
                yield inner
            seen.add(key.value)
            yield from _repeated_keys(value, inner)


def _text_location(location: tuple[int | str, ...]) -> Location:
    # A part in brackets comes from pydantic or from our tags, and is not in the document.
    return tuple(str(part) for part in location if not str(part).startswith("["))


def _place(path: Path, location: Location, lines: Mapping[Location, int]) -> str:
    known = location
    while known and known not in lines:
        known = known[:-1]
    name = ".".join(location)
    return f"{path}, line {lines.get(known, 1)}" + (f", {name}" if name else "")


def _sentence(detail: Mapping[str, Any]) -> str:
    kind, message = detail["type"], str(detail["msg"])
    if kind == "missing":
        return "this key is missing"
    if kind == "extra_forbidden":
        return "this key does not exist. docs/configuration.md lists the keys."
    if kind == "string_pattern_mismatch" and detail["loc"][-1] == "[key]":
        return "a key is 1 to 64 characters of a-z, 0-9 and _"
    if kind == "string_too_long" and str(detail["loc"][-1]).endswith("_env"):
        return "give the name of the variable that holds the token, not the token itself"
    if kind == "string_pattern_mismatch" and "^https://" in message:
        return "the address must begin with https://"
    if kind == "string_pattern_mismatch" and re.search(r"\[0-9\]\{1,20\}", message):
        return "an id at Meta is 1 to 20 digits"
    return message.removeprefix("Value error, ")
