"""References to documents lead somewhere: from source comments, and between the documents."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("assets", "resources", "mm_pipelines", "tests", "benchmarks", "examples", "deploy")
SUFFIXES = {".py", ".sql", ".md", ".toml", ".yaml", ".yml", ".ini", ".sh"}

MENTION = re.compile(r"\b(docs/[\w./-]+\.md)(?:#([\w-]+))?")
"""`docs/graph-api.md#uploading-users` in a comment, a docstring or a message."""

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([\w-]+))?\)")
"""`[text](page.md#heading)` in a document; addresses of the web are not followed."""

PATH = re.compile(rf"`((?:{'|'.join(SOURCES)})/[\w./-]*)`")
"""A path of this repository in code type: `mm_pipelines/graph_api/users.py`."""

NAME_IN_MODULE = re.compile(r"`(\w+)` (?:in|of) `([\w/]+\.py)`")
"""A name and the module that defines it: `KEYS` in `mm_pipelines/identity/keys.py`."""

PRIVATE = re.compile(r"graph-api-facts|\bdesign(?:\.md| [0-9§])", re.IGNORECASE)
"""Notes that are not in this repository, and sections of them by number."""

HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def source_files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and _is_text(path))
    for folder in SOURCES:
        if (ROOT / folder).is_dir():
            yield from filter(_is_text, (ROOT / folder).rglob("*"))


def _is_text(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.name == "Makefile"


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@cache
def headings(document: Path) -> frozenset[str]:
    """The anchors of a document, as MkDocs and GitHub both make them."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    return frozenset(_slug(heading) for heading in HEADING.findall(text))


def _slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def fault(document: Path, heading: str) -> str | None:
    """What is wrong with a reference, or None."""
    if not document.exists():
        return "no such file"
    if heading and heading not in headings(document):
        return f"no heading #{heading}"
    return None


def test_documents_that_the_sources_cite_exist_with_their_headings() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {target}#{heading}: {reason}"
        for path in (*source_files(), *documents())
        for target, heading in MENTION.findall(path.read_text(encoding="utf-8"))
        if path != Path(__file__) and (reason := fault(ROOT / target, heading))
    ]
    assert not wrong, "\n".join(wrong)


def test_sources_cite_only_documents_of_this_repository() -> None:
    cited = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in (*source_files(), *documents())
        if path != Path(__file__)
        for found in PRIVATE.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not cited, "\n".join(cited)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_to_a_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    wrong = [
        f"{target}#{heading}: {reason}"
        for target, heading in LINK.findall(text)
        if (reason := fault((document.parent / target) if target else document, heading))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_that_documents_name_exist(document: Path) -> None:
    named = PATH.findall(document.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_documents_mention_are_in_their_module(document: Path) -> None:
    wrong = [
        f"{name} is not in {path}"
        for name, path in NAME_IN_MODULE.findall(document.read_text(encoding="utf-8"))
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_every_decision_is_listed_in_the_index() -> None:
    decisions = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (decisions / "index.md").read_text())
    assert listed == sorted(path.name for path in decisions.glob("0*.md"))
