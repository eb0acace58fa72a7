"""Fixtures of all tests: a migrated database on a real PostgreSQL, and a storage."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings
from sqlalchemy import create_engine, make_url, text

from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from tests.s3 import CREDENTIALS, s3_server
from tests.temporary_home import reachable_home

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Partitions are made when the code location is imported, so it must know its mm.yaml by then; in a
# folder of its own, because customer lists are looked for beside it.
_HOME = tempfile.TemporaryDirectory(prefix="mm-tests-")
shutil.copy(Path(__file__).parent / "mm.yaml", _HOME.name)
os.environ["MM_CONFIG"] = f"{_HOME.name}/mm.yaml"
os.environ["MM_HOME"] = f"{_HOME.name}/home"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: the one that MM_TEST_DATABASE_URL names, or an embedded one."""
    given = os.environ.get("MM_TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Every test makes and drops a database; none depends on what a power failure leaves.
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False)
    yield server.start()
    server.remove()


@pytest.fixture(scope="session")
def template_url(server_url: str) -> Iterator[str]:
    """The migrated database that each test gets a copy of."""
    with own_database(server_url, template=None) as url:
        database = Database(url)
        upgrade(database)
        database.dispose()
        yield url


@pytest.fixture
def database_url(server_url: str, template_url: str) -> Iterator[str]:
    """The URL of a fresh, migrated database."""
    with own_database(server_url, template=make_url(template_url).database) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty storage on the local disk."""
    return Storage(str(tmp_path / "storage"))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server."""
    with s3_server() as url:
        yield url


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of a fresh bucket. Address and credentials are in the environment only."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"mm-{uuid.uuid4().hex}"
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir(bucket)
    yield f"s3://{bucket}/storage"
    filesystem.clear_instance_cache()


@pytest.fixture
def home() -> Iterator[Path]:
    """The path of an MM_HOME that every account can reach; its server is removed afterwards."""
    with reachable_home() as home:
        yield home


@contextmanager
def own_database(server_url: str, *, template: str | None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    server = create_engine(Database(server_url).driver_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        copied = f" template {template}" if template else ""
        connection.execute(text(f"create database {name}{copied}"))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"drop database {name} with (force)"))
    server.dispose()
