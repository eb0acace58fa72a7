"""One measured figure and what it is held against."""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter


@dataclass(frozen=True)
class Figure:
    """A measurement beside its peer's or its limit, taken in the same run.

    Attributes:
        name: What was measured.
        value: Ours, in `unit`.
        unit: Such as `rows/s`, `s` or `MB`.
        against: The peer or limit in the same unit; None where a bare figure is all there is.
        peer: What `against` is.
        target: The ratio or bound that the project set itself, as a sentence.
    """

    name: str
    value: float
    unit: str
    against: float | None = None
    peer: str = ""
    target: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs."""
        return self.value / self.against if self.against else None


def median_seconds(work: Callable[[], object], runs: int = 3) -> float:
    """The median duration of several runs of `work`."""
    durations = []
    for _ in range(runs):
        begun = perf_counter()
        work()
        durations.append(perf_counter() - begun)
    return statistics.median(durations)


def peak_megabytes() -> float:
    """The peak of this process's resident memory.

    getrusage would return the peak of the parent process if that is higher.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) / 1024
