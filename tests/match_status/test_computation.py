"""Which report gives a row its bounds, whatever the order in which reports arrive."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.match_status.computation import Batch, Report, newest_report

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def report(second: int, size: int, arrival: int) -> Report:
    """A report of a moment at which so many people had matched."""
    return Report(
        received_at=NOON + timedelta(minutes=arrival),
        happened_at=NOON + timedelta(seconds=second),
        event_id=arrival,
        source="webhook",
        lower_bound=size,
        upper_bound=size + 10,
    )


@given(
    st.lists(
        st.tuples(st.sampled_from([500, 10_000]), st.integers(0, 2)), min_size=1, max_size=6
    ).map(lambda batches: sorted(batches, key=lambda batch: batch[1])),
    st.randoms(use_true_random=False),
)
def test_the_bounds_are_those_of_the_last_batch(
    uploaded: list[tuple[int, int]], random: Random
) -> None:
    """An audience grows with each batch; reports arrive in any order and name no batch."""
    reports = list(enumerate(uploaded))
    random.shuffle(reports)
    waiting: dict[int, list[int]] = {500: [], 10_000: []}
    for number, (rows, _) in enumerate(uploaded):
        waiting[rows].append(number)
    assigned: dict[int, Report] = {}
    for arrival, (number, (rows, second)) in enumerate(reports):
        assigned[waiting[rows].pop(0)] = report(second, number, arrival)
    batches = [
        Batch(rows, is_acknowledged=True, acknowledged_at=NOON, report=assigned[number])
        for number, (rows, _) in enumerate(uploaded)
    ]
    newest = newest_report(batches)
    assert newest is not None
    last_second = uploaded[-1][1]
    # Only equal batches of different seconds can hide which one was the last of its second.
    tied = {rows for rows, second in uploaded if second == last_second}
    if len(tied) == 1:
        assert newest.lower_bound == len(uploaded) - 1
    assert newest.happened_at == NOON + timedelta(seconds=last_second)
