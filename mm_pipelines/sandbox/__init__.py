"""A local stand-in for Meta's Graph API, as far as Marketing Messages for Messenger need it.

It speaks the real paths over real HTTP, matches people asynchronously, delivers signed webhooks and
keeps its state in one SQLite file, so that killing it loses nothing. It shares no code with the
client it is there to test: a mistake made in both would cancel itself out.

`/_sandbox/…` is its own door, for inspection, faults and the people who press buttons in Messenger:
see docs/sandbox.md.
"""

from mm_pipelines.sandbox.app import create_app
from mm_pipelines.sandbox.server import run, serve
from mm_pipelines.sandbox.settings import Settings, Variants

__all__ = ["Settings", "Variants", "create_app", "run", "serve"]
