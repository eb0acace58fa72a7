"""A caller of the sandbox and a receiver of its webhooks, both over real HTTP."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

PAGE, OTHER_PAGE = "134141414124123", "234141414124123"
ACCOUNT = "12348141984909088"
SYSTEM_TOKEN, PAGE_TOKEN, OTHER_PAGE_TOKEN = "system-token", "page-token", "other-page-token"
APP_ID, APP_SECRET, VERIFY_TOKEN = "1231312312312301", "app-secret", "verify-me"

SCHEMA = ["EMAIL", "PHONE"]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def person(name: object) -> list[str]:
    """A row of a person with an e-mail and a phone."""
    return [sha256(f"{name}@example.com"), sha256(f"1555{name}")]


def people(count: int, label: str = "p") -> list[list[str]]:
    return [person(f"{label}{number}") for number in range(count)]


def key(row: list[str]) -> str:
    """A row as the sandbox names its members."""
    return "|".join(row)


@dataclass
class Meta:
    """The sandbox as its callers see it; answers are returned whatever their status."""

    url: str
    http: httpx.Client

    def call(
        self, method: str, path: str, token: str | None = SYSTEM_TOKEN, **kwargs: Any
    ) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.http.request(method, f"{self.url}/v26.0/{path}", headers=headers, **kwargs)

    def control(self, method: str, path: str, /, **body: Any) -> Any:
        answer = self.http.request(method, f"{self.url}/_sandbox/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def create_audience(self, name: str = "Newsletter", page: str = PAGE, **extra: Any) -> str:
        answer = self.call("POST", f"act_{ACCOUNT}/customaudiences", json=creation(name, page))
        assert answer.is_success, answer.text
        return str(answer.json()["data"][0]["id"])

    def upload(
        self,
        audience: str,
        rows: list[Any],
        session: int = 1,
        seq: int = 1,
        *,
        method: str = "POST",
        schema: Any = None,
        last: bool = False,
        edge: str = "users",
    ) -> httpx.Response:
        body = {
            "payload": {"schema": schema or SCHEMA, "data": rows},
            "session": {"session_id": session, "batch_seq": seq, "last_batch_flag": last},
        }
        return self.call(method, f"{audience}/{edge}", json=body)

    def process_now(self) -> Any:
        return self.control("POST", "settle")

    def members(self, audience: str) -> set[str]:
        return set(self.control("GET", f"audiences/{audience}/members")["keys"])

    def tokens(self, token: str = PAGE_TOKEN, page: str = PAGE, **params: Any) -> list[Any]:
        """Every token listed, by cursor."""
        listed: list[Any] = []
        params = {"limit": 1000, **params}
        while True:
            answer = self.call("GET", f"{page}/notification_message_tokens", token, params=params)
            assert answer.is_success, answer.text
            listed += answer.json()["data"]
            if "next" not in answer.json().get("paging", {}):
                return listed
            params["after"] = answer.json()["paging"]["cursors"]["after"]


def creation(name: str = "Newsletter", page: str = PAGE) -> dict[str, Any]:
    """The audience of Meta's page on growing an audience."""
    return {
        "subtype": "CUSTOM",
        "customer_file_source": "USER_PROVIDED_ONLY",
        "name": name,
        "description": "Customers who agreed",
        "use_for_products": ["MARKETING_MESSAGES"],
        "subscription_info": ["MESSENGER"],
        "marketing_message_channels": {"MESSENGER": page},
    }


def error_of(answer: httpx.Response) -> tuple[int, int | None]:
    """Code and subcode of an answer that is an error."""
    error = answer.json()["error"]
    assert error["message"]
    assert error["fbtrace_id"]
    return error["code"], error.get("error_subcode")


@dataclass
class Receiver:
    """Takes webhooks; answers with the next of `statuses`, then with 200."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver = self

        class Requests(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                welcome = query["hub.verify_token"] == [VERIFY_TOKEN]
                self._answer(200 if welcome else 403, query["hub.challenge"][0].encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                receiver.got.append((self.headers["x-hub-signature-256"], body))
                self._answer(status, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Keep silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/webhooks"

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
