"""`mm demo`."""

from __future__ import annotations


def demo() -> None:
    """Run the whole flow on the sample lists, against the sandbox."""
