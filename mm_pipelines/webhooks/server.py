"""Runs the receiver with uvicorn and writes one JSON line per request, without its content."""

import json
import logging
from datetime import UTC, datetime

import uvicorn

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings, create_app
from mm_pipelines.webhooks.connection import connections

# The request line and headers; Meta's are under 2 KiB.
_MAX_HEADER_BYTES = 32 * 1024
_IDLE_SECONDS = 30
_SECONDS_TO_FINISH = 20
_FACTS = ("status", "reason", "events", "seconds", "fault")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _FACTS if hasattr(record, name)})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def server(
    settings: ReceiverSettings, database: Database, *, host: str, port: int
) -> uvicorn.Server:
    """Return a server that is not started yet; port 0 picks a free port."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database),
            host=host,
            port=port,
            http=connections(
                header_seconds=settings.header_seconds,
                most_connections=settings.most_connections,
            ),
            ws="none",
            access_log=False,  # it would contain the verify token
            log_config=None,
            server_header=False,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        )
    )


def run(settings: ReceiverSettings, database: Database, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests received by then are committed and answered."""
    lines = logging.StreamHandler()
    lines.setFormatter(JsonLines())
    for name in ("mm_pipelines.webhooks", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [lines]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        server(settings, database, host=host, port=port).run()
    finally:
        database.dispose()
