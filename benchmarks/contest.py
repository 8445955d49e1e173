"""Contenders side by side: each is built, checked and warmed up, and then measured in turn."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from threading import Thread

from .peers import Bridge
from .results import Row, Samples, figures_of

BUDGET_SECONDS = 20.0  # a contender that has taken so long gets no more turns
END_SECONDS = 10.0

Turn = Callable[[], Mapping[str, float]]  # measures once: a number for each metric
Contender = AbstractContextManager[Turn]  # raises if it cannot be built or answers wrong


class WrongAnswerError(Exception):
    """What came is not what the case expects."""


def compete(
    case: str, loop: str | None, load: int | None, contenders: Mapping[str, Contender], rounds: int
) -> Row:
    """A row. Each round begins with another contender, so that none always follows the same one.

    Who fails, in any way, is named with the reason, and nothing of it counts.
    """
    samples: Samples = {}
    refused: dict[str, str] = {}
    turns: dict[str, Turn] = {}
    spent = dict.fromkeys(contenders, 0.0)
    with ExitStack() as ending:
        for number in range(rounds + 1):  # the first builds them
            names = [name for name in contenders if name not in refused]
            shift = number % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                started = time.monotonic()
                try:
                    if not number:
                        turns[name] = ending.enter_context(contenders[name])
                    elif spent[name] < BUDGET_SECONDS:
                        for metric, value in turns[name]().items():
                            samples.setdefault(name, {}).setdefault(metric, []).append(value)
                except Exception as error:
                    refused[name] = f"{type(error).__name__}: {error}"
                spent[name] += time.monotonic() - started
    return Row(case, loop, load, figures_of(samples, refused), refused)


def one_after_the_other(case: str, load: int | None, contenders: Mapping[str, Contender]) -> Row:
    """A row of contenders that would disturb each other, with one turn each."""
    samples: Samples = {}
    refused: dict[str, str] = {}
    for name, contender in contenders.items():
        try:
            with contender as turn:
                samples[name] = {metric: [value] for metric, value in turn().items()}
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}"
    return Row(case, None, load, figures_of(samples, refused), refused)


def end_in_time(bridge: Bridge) -> None:
    """A bridge whose threads hang would never end; it is left behind."""
    ending = Thread(target=bridge.end, daemon=True)
    ending.start()
    ending.join(END_SECONDS)
