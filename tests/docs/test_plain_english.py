"""Documents keep to the words of the glossary and to US spelling."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

UNWANTED = re.compile(
    r"\b(?:nobody|somebody|whoever|whom|is told|set aside|settled?|shel(?:f|ves)"
    r"|\w*(?:material|normal|recogn|organ|util|minim|maxim|summar)is(?:e|es|ed|ing|ation))\b",
    re.IGNORECASE,
)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_uses_plain_words(document: Path) -> None:
    prose = CODE.sub("", document.read_text(encoding="utf-8"))
    assert UNWANTED.findall(prose) == []
