"""Homes outside of pytest's own directory, which is closed to the server's account."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mm_pipelines.local.postgres import EmbeddedPostgres


@pytest.fixture
def home() -> Iterator[Path]:
    """An MM_HOME that every account can reach, empty; its server is removed afterwards."""
    parent = Path(tempfile.mkdtemp(prefix="mm-home-"))
    parent.chmod(0o755)
    yield parent / "home"
    EmbeddedPostgres(parent / "home").remove()
    shutil.rmtree(parent)


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(home, durable=False)
