"""`mm normalize`: shows how one value is normalized and hashed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.output import fail, show

if TYPE_CHECKING:
    import polars as pl

    from mm_pipelines.identity.phone import PhoneConvention


def normalize(
    key: Annotated[str, typer.Argument(help="Schema key, such as EMAIL, PHONE or DOB.")],
    value: Annotated[str, typer.Argument(help="The cell's text; - reads standard input.")],
    country: Annotated[
        str | None, typer.Option(help="Country of the row, such as DE.", metavar="CC")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each step from a value to what is uploaded.

    The exit code is 1 if the value cannot be used. A phone number that can be read in two ways is
    shown in both: the list as a whole decides which one applies.
    """
    from mm_pipelines.identity import COLUMNS
    from mm_pipelines.identity.country import country_code

    key = key.upper()
    if key not in COLUMNS:
        fail(f"{key} is not a schema key. The keys are {', '.join(COLUMNS)}.")
    if country is not None and country_code(country) is None:
        fail(f"{country} is not a country. Write its two-letter code, such as DE.")
    text = sys.stdin.readline().rstrip("\n") if value == "-" else value
    steps = [{"step": "value", "result": text}]
    if country is not None:
        steps.append({"step": "country", "result": (country_code(country) or "").upper()})
    readings = _readings(key, text, country)
    for convention, (normalized, _) in readings.items():
        suffix = f", if bare numbers {convention}" if len(readings) > 1 else ""
        steps += _results(*readings[convention], suffix, several=normalized.width > 1)
    show(steps, as_json=as_json, empty="")
    if all(None in normalized.row(0) for normalized, _ in readings.values()):
        raise typer.Exit(1)


def _readings(
    key: str, value: str, country: str | None
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """The normalized and the uploaded values by the list's phone convention, without repeats."""
    import polars as pl

    from mm_pipelines.identity import normalize as normalize_frame
    from mm_pipelines.identity import normalize_and_hash
    from mm_pipelines.identity.country import country_code
    from mm_pipelines.identity.phone import PhoneConvention

    region = (country_code(country) or "").upper() if country else ""
    conventions: dict[str, PhoneConvention] = {"have their country code": PhoneConvention()}
    if key == "PHONE" and region:
        conventions["lack it"] = PhoneConvention({region: "national"})
    frame = pl.DataFrame({key: [value]})
    readings: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
    for name, convention in conventions.items():
        normalized, uploaded = (
            rule(frame, default_country=country, convention=convention)
            for rule in (normalize_frame, normalize_and_hash)
        )
        if not any(normalized.equals(known) for known, _ in readings.values()):
            readings[name] = (normalized, uploaded)
    return readings


def _results(
    normalized: pl.DataFrame, uploaded: pl.DataFrame, suffix: str, *, several: bool
) -> list[dict[str, str]]:
    from mm_pipelines.identity.keys import PLAIN

    steps = []
    for key in normalized.columns:
        name = f"{key} " if several else ""
        value, sent = normalized[key].item(), uploaded[key].item()
        if value is None or value == "":
            result = "blank" if value == "" else "cannot be used; it is not uploaded"
            steps.append({"step": f"{name}normalized{suffix}", "result": result})
            continue
        steps.append({"step": f"{name}normalized{suffix}", "result": value})
        form = "uploaded in plain" if key in PLAIN else "SHA-256"
        steps.append({"step": f"{name}{form}{suffix}", "result": sent})
    return steps
