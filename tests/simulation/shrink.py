"""Finds the shortest story that still fails, by leaving out events (delta debugging)."""

from collections.abc import Callable

from tests.simulation.story import Event, Story


def shrink(story: Story, fails: Callable[[Story], bool]) -> Story:
    """A story that fails too, and no longer fails without any one of its events.

    Args:
        story: A story that fails.
        fails: Plays a story; returns whether it fails in the same way.
    """
    events = list(story.events)
    size = len(events) // 2
    while size:
        events, is_shorter = _without_parts(story, events, size, fails)
        if not is_shorter:
            size //= 2
        size = min(size, len(events))
    return story.with_events(events)


def _without_parts(
    story: Story, events: list[Event], size: int, fails: Callable[[Story], bool]
) -> tuple[list[Event], bool]:
    """Leave out every part of this size that the failure does not need."""
    is_shorter = False
    start = 0
    while start < len(events):
        rest = events[:start] + events[start + size :]
        if fails(story.with_events(rest)):
            events, is_shorter = rest, True
        else:
            start += size
    return events, is_shorter
