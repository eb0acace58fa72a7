"""People who write to a Page whose receiver comes and goes, and Meta, who tries until it hears."""

import threading
import time
from types import TracebackType
from typing import Self

import httpx

from tests.webhooks.meta import body, item, messaging, signed

_PAUSE_SECONDS = 3.0
_AGAIN_SECONDS = 0.3
_GIVE_UP_SECONDS = 300.0


class Writers(threading.Thread):
    """Delivers a message of another person every few seconds, each twice, until the block ends.

    Attributes:
        written: How many messages were acknowledged.
        unanswered: How many attempts met no receiver, or one without its database.
    """

    def __init__(self, receiver_port: str, app_secret: str) -> None:
        super().__init__()
        self.written = 0
        self.unanswered = 0
        self._url = f"http://127.0.0.1:{receiver_port}/webhooks"
        self._secret = app_secret
        self._give_up_at = float("inf")
        self._is_over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=5) as client:
            while not self._is_over.wait(_PAUSE_SECONDS):
                now = time.time_ns() // 1_000_000
                message = item(f"70000{self.written}", message={"text": "hello"}, timestamp=now)
                content = body(messaging(message, time=now))
                if not (self._deliver(client, content) and self._deliver(client, content)):
                    return
                self.written += 1

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the last message be delivered, and no more; none, if no receiver runs."""
        self._is_over.set()
        if exception is not None:
            self._give_up_at = 0.0
        self.join()

    def _deliver(self, client: httpx.Client, content: bytes) -> bool:
        give_up = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < min(give_up, self._give_up_at):
            try:
                headers = signed(content, self._secret)
                answer = client.post(self._url, content=content, headers=headers)
                if answer.status_code == httpx.codes.OK:
                    return True
            except httpx.TransportError:
                pass
            self.unanswered += 1
            time.sleep(_AGAIN_SECONDS)
        return False
