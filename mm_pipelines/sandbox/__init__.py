"""A local stand-in for Meta's Graph API, as far as marketing messages on Messenger need it.

It answers the real paths over HTTP, matches people asynchronously, delivers signed webhooks and
keeps its state in one SQLite file, so that killing it loses nothing. It shares no code with the
client that it tests, because a mistake in shared code would cancel itself out.

Control calls under `/_sandbox/…` inspect it, configure faults and simulate people in Messenger: see
docs/sandbox.md.
"""

from mm_pipelines.sandbox.app import create_app
from mm_pipelines.sandbox.server import run, serve
from mm_pipelines.sandbox.settings import Settings, Variants

__all__ = ["Settings", "Variants", "create_app", "run", "serve"]
