"""A sandbox on a socket that matches on request and sends webhooks to a receiver."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from mm_pipelines.sandbox import Settings
from mm_pipelines.sandbox.server import server
from tests import servers
from tests.sandbox import meta
from tests.sandbox.meta import Meta, Receiver
from tests.servers import serving

Start = Callable[..., Meta]


@pytest.fixture(scope="session")
def every_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def receiver(every_receiver: Receiver) -> Receiver:
    """A receiver of webhooks that has got none yet."""
    every_receiver.statuses.clear()
    every_receiver.got.clear()
    return every_receiver


def settings(**changes: Any) -> Settings:
    """Tokens, one ad account and two Pages; matching waits for `process_now`."""
    values = {
        "system_user_tokens": (meta.SYSTEM_TOKEN,),
        "page_tokens": {
            meta.PAGE: meta.PAGE_TOKEN,
            meta.OTHER_PAGE: meta.OTHER_PAGE_TOKEN,
        },
        "ad_accounts": {meta.ACCOUNT: (meta.PAGE, meta.OTHER_PAGE)},
        "app_id": meta.APP_ID,
        "app_secret": meta.APP_SECRET,
        "webhook_verify_token": meta.VERIFY_TOKEN,
        "match_delay_seconds": 3600,
        "optin_people_per_page": 30,
        "webhook_backoff_seconds": 0.01,
    }
    return Settings.model_validate(values | changes)


@contextmanager
def running(**changes: Any) -> Iterator[Meta]:
    """A sandbox with these settings, for as long as the block lasts."""
    with serving(server("127.0.0.1", 0, settings(**changes))) as url, httpx.Client() as http:
        yield Meta(url, http)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start sandboxes with settings of one's own."""
    with ExitStack() as stack:

        def start(**changes: Any) -> Meta:
            running_now: AbstractContextManager[Meta] = running(**changes)
            return stack.enter_context(running_now)

        yield start


@pytest.fixture(scope="session")
def every_sandbox(every_receiver: Receiver) -> Iterator[Meta]:
    with running(webhook_url=every_receiver.url) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(every_sandbox: Meta, receiver: Receiver) -> Meta:
    """A sandbox fresh from a reset, with the usual settings, whose webhooks go to `receiver`."""
    every_sandbox.control("POST", "reset")
    receiver.got.clear()
    return every_sandbox


@pytest.fixture
def free_port() -> int:
    """A port for a process that must come back to it."""
    return servers.free_port()
