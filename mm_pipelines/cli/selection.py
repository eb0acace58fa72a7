"""The audiences and Pages that `--audience` and `--page` select."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mm_pipelines.cli.output import fail

if TYPE_CHECKING:
    from mm_pipelines.config import Audience, Page
    from mm_pipelines.local.environment import Environment

_Known = TypeVar("_Known")


@dataclass(frozen=True)
class Selection:
    """Keys of mm.yaml; without an option, all of them."""

    audiences: list[str]
    pages: list[str]

    @classmethod
    def of(cls, environment: Environment, *, audience: str | None, page: str | None) -> Selection:
        """Apply the options; the command ends if mm.yaml has no such key."""
        config = environment.config()
        if audience is not None:
            require_audience(environment, audience)
        if page is not None:
            require_page(environment, page)
        audiences = [
            key
            for key, configured in config.audiences.items()
            if audience in (None, key) and page in (None, configured.page)
        ]
        used = {config.audiences[key].page for key in audiences}
        pages = [
            key for key in config.pages if page in (None, key) and (audience is None or key in used)
        ]
        return cls(audiences, pages)


def require_audience(environment: Environment, key: str) -> Audience:
    """The audience of mm.yaml with this key; the command ends if there is none."""
    return _require(environment, environment.config().audiences, "audience", key)


def require_page(environment: Environment, key: str) -> Page:
    """The Page of mm.yaml with this key; the command ends if there is none."""
    return _require(environment, environment.config().pages, "page", key)


def _require(environment: Environment, known: Mapping[str, _Known], kind: str, key: str) -> _Known:
    if key not in known:
        fail(f"{environment.config_path} has no {kind} {key!r}; known are {', '.join(known)}")
    return known[key]
