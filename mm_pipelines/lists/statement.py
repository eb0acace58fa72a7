"""A query of mm.yaml as a statement with bound parameters."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mm_pipelines.lists.errors import ListUnreadableError

PARAMETERS = ("day", "previous_day", "audience")

_SELECTS = ("select", "with", "values", "table", "from", "(")
_TOKEN = re.compile(
    r"(?P<quoted>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    r"|(?P<comment>--[^\n]*|/\*.*?\*/)"
    # Neither a cast (::date) nor a path (data:email).
    r"|(?P<cast>::)"
    r"|(?<!\w):(?P<parameter>[A-Za-z_]\w*)",
    re.DOTALL,
)
_ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One SELECT, divided at its parameters.

    Attributes:
        pieces: The text between the parameters; one more than parameters.
        parameters: Their names in the order of the text; a name may occur again.
        has_order: Whether it has an ``order by`` outside parentheses.
    """

    pieces: tuple[str, ...]
    parameters: tuple[str, ...]
    has_order: bool

    def text(self, placeholder: Callable[[int, str], str]) -> str:
        """The statement with ``placeholder(position, name)`` for each parameter, from 0."""
        first, *others = self.pieces
        marks = (placeholder(place, name) for place, name in enumerate(self.parameters))
        return first + "".join(mark + piece for mark, piece in zip(marks, others, strict=True))

    def ordered_by(self, key: str) -> "Statement":
        """The same rows in the order of a column."""
        first, *others = self.pieces
        pieces = [f"select * from (\n{first}", *others]
        # On a line of its own, because the statement may end in a comment.
        pieces[-1] += f"\n) as source_rows order by {key}"
        return Statement(tuple(pieces), self.parameters, has_order=True)


def parse_statement(name: str, sql: str) -> Statement:
    """Divide a query at its parameters.

    Args:
        name: The source, for messages.
        sql: One SELECT, with or without a semicolon at its end.

    Raises:
        ListUnreadableError: It is not one SELECT, or has an unknown parameter.
    """
    pieces, parameters, code = [""], [], ""
    for text, parameter, is_code in _tokens(sql.strip().rstrip(";")):
        if parameter is None:
            pieces[-1] += text
        elif parameter in PARAMETERS:
            parameters.append(parameter)
            pieces.append("")
        else:
            known = ", ".join(f":{known}" for known in PARAMETERS)
            fault = f"the query has an unknown parameter :{parameter}; use only {known}"
            raise ListUnreadableError(name, "", fault)
        code += text if is_code else " "
    if not code.strip().lower().startswith(_SELECTS):
        raise ListUnreadableError(name, "", "the query is no SELECT")
    if ";" in code:
        raise ListUnreadableError(name, "", "the query has more than one statement")
    return Statement(tuple(pieces), tuple(parameters), _has_order(code))


def _tokens(sql: str) -> Iterator[tuple[str, str | None, bool]]:
    """Pieces of text: each with the name of a parameter, and whether it is code."""
    end = 0
    for token in _TOKEN.finditer(sql):
        yield sql[end : token.start()], None, True
        yield token[0], token["parameter"], False
        end = token.end()
    yield sql[end:], None, True


def _has_order(code: str) -> bool:
    outside, depth = "", 0
    for sign in code:
        depth += (sign == "(") - (sign == ")")
        outside += sign if depth == 0 else " "
    return _ORDER_BY.search(outside) is not None
