"""A Graph API call: version, path, parameters and token, in any of the forms they are sent in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from mm_pipelines.sandbox.encoding import from_json
from mm_pipelines.sandbox.errors import GraphError, invalid_parameter, missing_parameter
from mm_pipelines.sandbox.settings import Variants

DEFAULT_VERSION = "v26.0"

_VERSION = re.compile(r"v\d+\.\d+\Z")
_LIST_SUFFIX = re.compile(r"\[\d*\]\Z")


@dataclass(frozen=True)
class Call:
    """One call. Its parameters are merged from query and body; `method=` has been applied."""

    method: str
    version: str
    path: str
    base_url: str
    params: Mapping[str, Any] = field(repr=False)
    token: str | None = field(repr=False)
    variants: Variants

    def text(self, name: str, default: str | None = None) -> str:
        """A scalar parameter as text; required if there is no default."""
        value = self.params.get(name)
        if value is None or value == "":
            if default is None:
                raise missing_parameter(name)
            return default
        if isinstance(value, (dict, list)):
            raise invalid_parameter(f"Param {name} must be a string")
        if isinstance(value, bool):
            return str(value).lower()
        return str(value)

    def nested(self, name: str) -> Any:
        """An object or list, a JSON string in forms and queries; None if absent."""
        value = self.params.get(name)
        if isinstance(value, str):
            try:
                return from_json(value)
            except ValueError:
                raise invalid_parameter(f"Param {name} must be valid JSON") from None
        return value

    def items(self, name: str) -> list[str]:
        """A list given as JSON array, as CSV or by repeating the key."""
        value = self.params.get(name)
        if value is None or value == "":
            return []
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = self.nested(name)
        parts = value if isinstance(value, list) else [value]
        return [
            piece.strip() for part in parts for piece in str(part).split(",") if piece.strip() != ""
        ]

    def flag(self, name: str) -> bool | None:
        """A boolean in any of its spellings; None if absent."""
        if self.params.get(name) is None:
            return None
        word = self.text(name, "").lower()
        if word in {"true", "1"}:
            return True
        if word in {"false", "0", ""}:
            return False
        raise invalid_parameter(f"Param {name} must be a boolean")

    def whole_number(self, name: str, default: int, lowest: int = 0) -> int:
        """An integer parameter of at least `lowest`."""
        word = self.text(name, str(default))
        if not re.fullmatch(r"-?[0-9]{1,18}", word) or int(word) < lowest:
            raise invalid_parameter(f"Param {name} must be an integer of at least {lowest}")
        return int(word)


async def read_call(request: Request, variants: Variants) -> Call:
    """Read the whole request; raises GraphError 100 for a body that does not parse."""
    version, path = _split_version(request.url.path)
    params = _pairs(parse_qsl(request.url.query, keep_blank_values=True))
    params |= _body_params(request.headers.get("content-type", ""), await request.body())
    method = request.method
    if method == "POST":
        method = str(params.pop("method", method)).upper()
    token = params.pop("access_token", None)
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "oauth"} and credentials.strip():
        token = credentials.strip()
    return Call(
        method=method,
        version=version,
        path=path,
        base_url=str(request.base_url).rstrip("/"),
        params=params,
        token=None if token is None else str(token),
        variants=variants,
    )


def _split_version(path: str) -> tuple[str, str]:
    first, _, rest = path.strip("/").partition("/")
    return (first, rest) if _VERSION.match(first) else (DEFAULT_VERSION, path.strip("/"))


def _pairs(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Name-value pairs; a repeated name, with or without brackets, becomes a list."""
    params: dict[str, Any] = {}
    for name, value in pairs:
        plain = _LIST_SUFFIX.sub("", name)
        if plain in params or plain != name:
            before = params.get(plain, [])
            params[plain] = [*(before if isinstance(before, list) else [before]), value]
        else:
            params[name] = value
    return params


def _body_params(content_type: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _pairs(_multipart_pairs(content_type, body))
    if kind == "application/json" or (kind == "" and body.lstrip().startswith(b"{")):
        try:
            value = from_json(body)
        except ValueError:
            raise GraphError("(#100) The body is not valid JSON", code=100) from None
        if not isinstance(value, dict):
            raise GraphError("(#100) The body must be a JSON object", code=100)
        return value
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise GraphError("(#100) The body is not valid UTF-8", code=100) from None
    return _pairs(parse_qsl(text, keep_blank_values=True))


def _multipart_pairs(content_type: str, body: bytes) -> list[tuple[str, str]]:
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    pairs = []
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            content = part.get_payload(decode=True)
            pairs.append((name, content.decode() if isinstance(content, bytes) else ""))
    return pairs
