"""One convention each for docstrings and documented constants."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split("\0")
MODULES = sorted(ROOT / path for path in TRACKED if path)
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
ENTRY = re.compile(r"^    [\w.*]+: (?!mm\.)[a-z]")


def lower_case_entries(docstring: str) -> Iterator[str]:
    """The entries of `Args:` and the like that begin with a small letter."""
    in_section = False
    for line in docstring.splitlines():
        if SECTION.match(line):
            in_section = True
        elif line and not line.startswith(" "):
            in_section = False
        elif in_section and ENTRY.match(line):
            yield line.strip()


def test_entries_of_docstrings_begin_with_a_capital_letter() -> None:
    found = [
        f"{module.relative_to(ROOT)}: {entry}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node))
        for entry in lower_case_entries(docstring)
    ]
    assert found == []


def test_constants_are_documented_by_a_string_below_them() -> None:
    found = [
        f"{module.relative_to(ROOT)}:{number}"
        for module in MODULES
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), start=1)
        if line.startswith("#:")
    ]
    assert found == []
