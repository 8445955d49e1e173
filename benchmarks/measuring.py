"""What a request cost, and the ratios of costs."""

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one request cost: wall time, and CPU time and context switches of the process."""

    seconds: float
    cpu_seconds: float
    switches: float


class Stopwatch:
    """Wall time, CPU time and context switches between `start()` and `stop()`."""

    def start(self) -> None:
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._started = time.perf_counter()

    def stop(self, requests: int) -> Cost:
        seconds = time.perf_counter() - self._started
        before, after = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
        return Cost(seconds / requests, cpu / requests, switches / requests)


@dataclass(frozen=True)
class Ratio:
    """The median of the per-round ratios and the quartiles around it."""

    median: float
    low: float
    high: float


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio | None:
    """Ratios of samples of the same rounds; None where there is nothing to divide by."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=False) if b]
    if not ratios:
        return None
    low, _, high = quartiles(ratios)
    return Ratio(statistics.median(ratios), low, high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
