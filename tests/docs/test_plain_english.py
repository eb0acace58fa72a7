"""Documents and code keep to plain words, the glossary and US spelling."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split("\0")
DOCUMENTS = sorted(ROOT / path for path in TRACKED if path.endswith(".md"))
MODULES = sorted(ROOT / path for path in TRACKED if path.endswith(".py"))

BRITISH_STEMS = (
    "anonym|author|capital|categor|character|custom|emphas|final|general|initial|material|maxim"
    "|minim|normal|optim|organ|prior|random|recogn|serial|special|standard|summar|synchron|token"
    "|util"
)
UNWANTED = re.compile(
    r"\b(?:nobody|somebody|whoever|whom|stands|stood|(?:tells|told)(?! apart)"
    r"|sets? aside|settl(?:e[sd]?|ing)|(?:leav(?:es?|ing)|left) (?:\w+ ){0,3}alone"
    r"|houses?|rooms?|doors?|shel(?:f|ves)|walls?|drawers?|shores?"
    rf"|\w*(?:{BRITISH_STEMS})is(?:e[sd]?|ing|ations?)|analys(?:e[sd]?|ing)"
    r"|behaviours?|cancell(?:ed|ing)|catalogues?|centres?|colours?|favours?|labelled|learnt"
    r"|licences?|whilst)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def unwanted_words(prose: str) -> list[str]:
    return UNWANTED.findall(CODE.sub("", prose))


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Comments, texts of more than one word, and names of functions and classes, by line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if " " in node.value.strip():
                yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name.replace("_", " ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_uses_plain_words(document: Path) -> None:
    assert unwanted_words(document.read_text(encoding="utf-8")) == []


def test_code_uses_plain_words() -> None:
    found = [
        f"{module.relative_to(ROOT)}:{line}: {word}"
        for module in MODULES
        if module != Path(__file__)
        for line, text in sentences(module.read_text(encoding="utf-8"))
        for word in unwanted_words(text)
    ]
    assert found == []
