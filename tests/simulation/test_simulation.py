import subprocess
import sys

import pytest

from tests.simulation.shrink import shrink
from tests.simulation.story import Event, Story, make_story


def _play(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: this one has threads, and a process with threads must not fork.
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_first_seeds_violate_no_invariant() -> None:
    played = _play("--seeds", "200", "--seconds", "15")

    assert played.returncode == 0, played.stdout + played.stderr
    assert " 0 violations" in played.stdout


def test_a_seed_makes_the_same_story_again() -> None:
    assert make_story(7) == make_story(7)
    assert make_story(7) != make_story(8)


@pytest.mark.parametrize("needed", [{3}, {0, 9}, {2, 3, 4}, set(range(10))])
def test_shrinking_keeps_the_events_that_a_failure_needs(needed: set[int]) -> None:
    story = Story(0, (), tuple(Event(float(number)) for number in range(10)))

    def fails(shorter: Story) -> bool:
        return needed <= {int(event.at) for event in shorter.events}

    assert {int(event.at) for event in shrink(story, fails).events} == needed
