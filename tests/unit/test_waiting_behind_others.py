"""runtime.py: which requests behind others are watched, and when (W-FLOW-4)."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from wsgi_asgi_bridge import WSGIToASGI
from wsgi_asgi_bridge.wsgi_to_asgi.runtime import QUEUE_GRACE_SECONDS, Runtime


class Waiting:
    """As much of an exchange as the beats see."""

    def __init__(self, side: Any) -> None:
        self.watched = 0
        self.queued_in_round: int | None = side.join_watch_round()
        side.exchanges.add(self)

    def watch_unless_begun(self) -> None:
        self.watched += 1


@pytest.fixture
async def side() -> Any:
    bridge = WSGIToASGI(lambda environ, start_response: [])
    return Runtime(bridge._settings, bridge.app, bridge._running_pool)


@pytest.fixture
def timers(side: Any) -> list[Callable[[], None]]:
    """What the side wants to do after a beat."""
    timers: list[Callable[[], None]] = []

    def call_later(seconds: float, callback: Callable[[], None]) -> None:
        assert seconds == QUEUE_GRACE_SECONDS
        timers.append(callback)

    side.handle.call_later = call_later
    return timers


def beat(timers: list[Callable[[], None]]) -> None:
    (timer,) = timers  # one for all
    timers.clear()
    timer()


async def test_who_waits_for_a_whole_beat_is_watched_once(side: Any, timers: Any) -> None:
    """W-FLOW-4: a client that leaves is noticed."""
    first = Waiting(side)
    beat(timers)
    assert first.watched == 0  # it may have come a moment ago
    second = Waiting(side)
    beat(timers)
    assert (first.watched, second.watched) == (1, 0)
    beat(timers)
    assert (first.watched, second.watched) == (1, 1)
    assert timers == []
    third = Waiting(side)
    beat(timers)
    beat(timers)
    assert (first.watched, third.watched) == (1, 1)


async def test_who_has_ended_is_not_kept_and_ends_the_beats(side: Any, timers: Any) -> None:
    ended = Waiting(side)
    gone = weakref.ref(ended)
    side.exchanges.discard(ended)
    del ended
    assert gone() is None
    beat(timers)
    assert timers == []
