"""Each item has its turn, however many there are and however slow they are."""

from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.sensors.rotation import in_turn


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tick(keys: list[str], last: str | None, seconds_each: float) -> list[str]:
    """The keys that one tick of 10 s examines."""
    clock, examined = Clock(), []
    for key in in_turn(keys, last, 10, clock):
        examined.append(key)
        clock.now += seconds_each
    return examined


def test_fast_items_are_all_examined_in_one_tick() -> None:
    assert tick(["a", "b", "c"], "b", 0.1) == ["c", "a", "b"]


def test_without_items_nothing_is_examined() -> None:
    assert tick([], None, 1) == []


def test_an_item_that_no_longer_exists_starts_from_the_beginning() -> None:
    assert tick(["a", "b"], "gone", 20) == ["a"]


@given(st.integers(1, 60), st.floats(0.1, 30))
def test_every_item_has_its_turn_before_any_has_a_second_one(count: int, seconds: float) -> None:
    keys = [f"key {number}" for number in range(count)]
    examined: list[str] = []
    while len(examined) < count:
        examined += tick(keys, examined[-1] if examined else None, seconds)
    assert set(examined[:count]) == set(keys)
