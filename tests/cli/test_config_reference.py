"""The reference of mm.yaml is complete and current."""

from pathlib import Path
from typing import Any

from mm_pipelines.cli.config_reference import json_schema, markdown

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_in_the_docs_is_current() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == markdown(), (
        "run: mm config reference > docs/configuration.md"
    )


def test_every_key_has_a_description() -> None:
    schema = json_schema()
    models: dict[str, Any] = {"mm.yaml": schema, **schema["$defs"]}
    missing = [
        f"{model}.{key}"
        for model, definition in models.items()
        for key, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert missing == []
