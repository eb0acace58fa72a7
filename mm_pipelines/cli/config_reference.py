"""The reference of mm.yaml, made from its models, as JSON Schema and as Markdown."""

import json
from collections.abc import Iterator
from typing import Any

from mm_pipelines.config import Config

_INTRODUCTION = """# mm.yaml

<!-- Made by `mm config reference`; do not edit. -->

Every key of `mm.yaml`. Unknown keys are errors, and `mm config check` reports all faults at once.
For completion and checks in an editor, write `mm config schema > mm.schema.json` and begin mm.yaml
with `# yaml-language-server: $schema=mm.schema.json`.
"""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of mm.yaml."""
    return Config.model_json_schema()


def markdown() -> str:
    """Return the reference as Markdown: one table for each mapping of mm.yaml."""
    schema = json_schema()
    sections = [_INTRODUCTION.rstrip()]
    for heading, model in _models(schema, "Top level", schema):
        rows = [
            _row(name, field, required=name in model.get("required", []))
            for name, field in model["properties"].items()
        ]
        table = ["| key | value | default | description |", "|---|---|---|---|", *rows]
        sections.append(f"## {heading}\n\n" + "\n".join(table))
    return "\n\n".join(sections) + "\n"


def _models(
    schema: dict[str, Any], heading: str, model: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield heading, model
    prefix = "" if model is schema else f"{heading.strip('`')}."
    for name, field in model["properties"].items():
        for key, target in _references(name, field):
            yield from _models(schema, f"`{prefix}{key}`", schema["$defs"][target])


def _references(name: str, field: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the models that a field holds, with the field's name as a path."""
    for option in _options(field):
        if "$ref" in option:
            yield name, option["$ref"].rpartition("/")[2]
        values = [*option.get("patternProperties", {}).values()]
        if isinstance(option.get("additionalProperties"), dict):
            values.append(option["additionalProperties"])
        for value in values:
            if "$ref" in value:
                yield f"{name}.<key>", value["$ref"].rpartition("/")[2]


def _options(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the alternatives of a field, nested ones included."""
    yield field
    for word in ("anyOf", "oneOf", "allOf"):
        for option in field.get(word, ()):
            yield from _options(option)


def _row(name: str, field: dict[str, Any], *, required: bool) -> str:
    default = "required" if required else _default(field.get("default"))
    return f"| `{name}` | {_kind(field)} | {default} | {field.get('description', '')} |"


def _default(value: object) -> str:
    return "" if value is None or isinstance(value, dict) else f"`{json.dumps(value)}`"


def _kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field or "allOf" in field or "patternProperties" in field:
        return "mapping"
    if alternatives := field.get("anyOf") or field.get("oneOf"):
        kinds = [_kind(option) for option in alternatives if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    names = {"object": "mapping", "string": "text", "array": "list", "boolean": "true or false"}
    kind = names.get(field.get("type", ""), field.get("type", ""))
    bounds = [
        f"{word} {field[name]}"
        for name, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if name in field
    ]
    return " ".join([kind, *bounds])
