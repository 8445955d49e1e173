"""Interleaved rounds: each contender is built, checked, warmed up, and then measured in turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

from .measuring import Cost
from .peers import Bridge
from .results import ABSENT, Row
from .settings import Settings

SLOW_SAMPLE_SECONDS = 1.0
SLOW_ROUNDS = 3
VERY_SLOW_SAMPLE_SECONDS = 5.0
END_SECONDS = 10.0


class WrongAnswerError(Exception):
    """What came is not what the case expects."""


def rotations(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The names once a round, each round beginning one later: none always follows the same one."""
    for number in range(rounds if names else 0):
        shift = number % len(names)
        yield [*names[shift:], *names[:shift]]


def turns(contenders: dict[str, Any], rounds: int) -> Iterator[tuple[int, str]]:
    """Number of the round and name; who leaves `contenders` meanwhile gets no more turns."""
    for number, order in enumerate(rotations(list(contenders), rounds)):
        for name in order:
            if name in contenders:
                yield number, name


def build_checked(
    builders: dict[str, Callable[[], Bridge]],
    check: Callable[[str, Callable[..., Any]], None],
    row: Row,
    ending: ExitStack,
) -> dict[str, Callable[..., Any]]:
    """The contenders that can be built and answer right; the row names the others, with why."""
    calls: dict[str, Callable[..., Any]] = {}
    for name, build in builders.items():
        try:
            bridge = build()
        except (ImportError, AttributeError) as error:
            row.refuse(name, f"{ABSENT}{error}")
            continue
        except Exception as error:
            row.refuse(name, f"cannot be built: {type(error).__name__}: {error}")
            continue
        ending.callback(end_in_time, bridge)
        calls[name] = bridge.call
        with out_when_it_fails(name, calls, row):
            check(name, bridge.call)
    return calls


@contextmanager
def out_when_it_fails(
    name: str, contenders: dict[str, Any], row: Row, when: str = ""
) -> Iterator[None]:
    """A contender may fail in any way: it is named, with why, and takes no further part."""
    try:
        yield
    except Exception as error:
        row.refuse(name, f"wrong{when}: {type(error).__name__}: {error}")
        del contenders[name]


def end_in_time(bridge: Bridge) -> None:
    """A bridge whose threads hang would never end; it is left behind."""
    ending = Thread(target=bridge.end, daemon=True)
    ending.start()
    ending.join(END_SECONDS)


@dataclass(frozen=True)
class Contest:
    """One case's rounds over contenders whose speeds differ by orders of magnitude.

    Each contender is first warmed up until the number of requests that fills a sample is known.
    Then every round gives each one turn. A contender that needs more than a second for a sample
    takes part in the first rounds only; where it needs more than five, the warm-up is the sample.
    """

    check: Callable[[str, Callable[..., Any]], None]  # raises where the answer is wrong
    load: Callable[[Callable[..., Any], int], Cost]  # makes so many requests
    settings: Settings
    least: int = 1  # a turn makes a multiple of this many requests

    def hold(self, row: Row, builders: dict[str, Callable[[], Bridge]]) -> Row:
        with ExitStack() as ending:
            calls = build_checked(builders, self.check, row, ending)
            for name, costs in self._samples(calls, row).items():
                row.samples[name] = {
                    "seconds": [cost.seconds for cost in costs],
                    "cpu_seconds": [cost.cpu_seconds for cost in costs],
                    "switches": [cost.switches for cost in costs],
                }
        return row

    def _samples(self, calls: dict[str, Callable[..., Any]], row: Row) -> dict[str, list[Cost]]:
        """The samples of those who held out; the others leave `calls`."""
        warm: dict[str, Cost] = {}
        for name in list(calls):
            with out_when_it_fails(name, calls, row, " under load"):
                warm[name] = self._warmed_up(calls[name])
        counts = {name: self._fitting(warm[name]) for name in calls}
        samples: dict[str, list[Cost]] = {name: [] for name in calls}
        for number, name in turns(calls, self.settings.rounds):
            if number < self._rounds_for(warm[name].seconds * counts[name]):
                with out_when_it_fails(name, calls, row, " under load"):
                    samples[name].append(self.load(calls[name], counts[name]))
        return {name: samples[name] or [warm[name]] for name in calls}

    def _rounds_for(self, seconds: float) -> int:
        if seconds > VERY_SLOW_SAMPLE_SECONDS:
            return 0
        return SLOW_ROUNDS if seconds > SLOW_SAMPLE_SECONDS else self.settings.rounds

    def _warmed_up(self, call: Callable[..., Any]) -> Cost:
        """What a request cost in the first load that was long enough to tell."""
        count = self.least
        while True:
            cost = self.load(call, count)
            if cost.seconds * count >= self.settings.sample_seconds / 4:
                return cost
            count *= 4

    def _fitting(self, cost: Cost) -> int:
        """The number of requests that fills a sample."""
        return max(1, round(self.settings.sample_seconds / cost.seconds / self.least)) * self.least
