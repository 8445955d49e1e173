"""eventfd_wakeup.py: an eventfd that wakes a loop of our own."""

import asyncio
import contextvars
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from wsgi_asgi_bridge._crossing.eventfd_wakeup import EventfdWakeup
from wsgi_asgi_bridge._crossing.fork import _reset_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="eventfd is Linux's")

NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def wakeup(loop: asyncio.AbstractEventLoop) -> Iterator[EventfdWakeup]:
    wakeup = EventfdWakeup(loop)
    yield wakeup
    loop.close()
    wakeup.close()


def one_turn(loop: asyncio.AbstractEventLoop, turns: int = 3) -> None:
    """Let the loop look at its files without waiting for them."""
    for _ in range(turns):
        loop.run_until_complete(asyncio.sleep(0))


def descriptor_of(wakeup: EventfdWakeup) -> int:
    assert wakeup._counter is not None
    return wakeup._counter.descriptor


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_ring_from_a_thread_ends_the_loops_sleep(
    loop: asyncio.AbstractEventLoop, wakeup: EventfdWakeup
) -> None:
    async def sleep_until_rung() -> None:
        rung = asyncio.Event()
        ringing = loop.run_in_executor(None, wakeup.wake, rung.set)
        await asyncio.wait_for(rung.wait(), 5)
        await ringing

    loop.run_until_complete(sleep_until_rung())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_rings_that_nobody_has_answered_yet_are_one(
    loop: asyncio.AbstractEventLoop, wakeup: EventfdWakeup
) -> None:
    rung: list[int] = []
    for _ in range(5):
        wakeup.wake(lambda: rung.append(1))
    one_turn(loop)
    assert rung == [1]
    wakeup.wake(lambda: rung.append(2))
    one_turn(loop)
    assert rung == [1, 2]


def test_a_ring_out_of_the_answer_is_heard_in_the_next_turn(
    loop: asyncio.AbstractEventLoop, wakeup: EventfdWakeup
) -> None:
    """A post of a post: the wakeup is read before the callback runs, so this ring is not lost."""
    rung: list[str] = []

    def first() -> None:
        rung.append("first")
        wakeup.wake(lambda: rung.append("second"))

    wakeup.wake(first)
    one_turn(loop)
    assert rung == ["first", "second"]


def test_the_answer_runs_in_an_empty_context(loop: asyncio.AbstractEventLoop) -> None:
    """A-LOOP-3: nothing of whoever made the loop, or rang, is seen by what is rung for."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("the maker's")
    wakeup = EventfdWakeup(loop)
    seen: list[Any] = []
    wakeup.wake(lambda: seen.append(var.get(None)))
    one_turn(loop)
    assert seen == [None]
    loop.close()
    wakeup.close()


def test_a_closed_loop_is_not_rung(loop: asyncio.AbstractEventLoop, wakeup: EventfdWakeup) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        wakeup.wake(lambda: None)


def test_close_gives_the_descriptor_back_once(loop: asyncio.AbstractEventLoop) -> None:
    wakeup = EventfdWakeup(loop)
    descriptor = descriptor_of(wakeup)
    loop.close()
    assert is_open(descriptor)
    wakeup.close()
    assert not is_open(descriptor)
    with open(os.devnull) as another:  # may have got the number
        wakeup.close()
        assert is_open(another.fileno())


def test_a_descriptor_that_is_written_to_is_open(
    wakeup: EventfdWakeup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a closed descriptor may be another file's: it is never written to. Nor does the
    close wait, since it may be that of a signal's handler, which has interrupted the wake-up.
    """
    written: list[bool] = []

    def write_after_close(descriptor: int, count: int) -> None:
        wakeup.close()
        written.append(is_open(descriptor))

    monkeypatch.setattr(os, "eventfd_write", write_after_close)
    descriptor = descriptor_of(wakeup)
    wakeup.wake(lambda: None)
    assert written == [True]
    assert not is_open(descriptor)


def test_what_a_forked_child_has_read_is_no_error(
    loop: asyncio.AbstractEventLoop, wakeup: EventfdWakeup
) -> None:
    """A-CALL-2: parent and child share the counter."""
    rung: list[str] = []
    wakeup.wake(lambda: rung.append("heard"))
    os.eventfd_read(descriptor_of(wakeup))
    wakeup._on_readable()
    assert rung == ["heard"]
    one_turn(loop)
    assert rung == ["heard"]


def test_a_bell_in_a_forked_child_is_closed(wakeup: EventfdWakeup) -> None:
    """A-CALL-2: it neither wakes the parent's loop, nor takes away what that loop has to hear."""
    descriptor = descriptor_of(wakeup)
    counter = os.dup(descriptor)
    rung: list[str] = []
    wakeup.wake(lambda: rung.append("the child's"))
    _reset_all()
    assert not is_open(descriptor)
    with pytest.raises(RuntimeError, match="closed"):
        wakeup.wake(lambda: None)
    wakeup._on_readable()
    assert rung == []
    assert os.eventfd_read(counter) == 1  # the parent's ring, unread, and no other
    os.close(counter)


def test_a_closed_bell_keeps_nobody_who_rang(loop: asyncio.AbstractEventLoop) -> None:
    """A cycle would wait for the garbage collector."""

    class Ringer:
        def __init__(self, wakeup: EventfdWakeup) -> None:
            self.wakeup = wakeup

        def answer(self) -> None: ...

    wakeup = EventfdWakeup(loop)
    ringer = Ringer(wakeup)
    gone = weakref.ref(ringer)
    wakeup.wake(ringer.answer)
    loop.close()
    wakeup.close()
    with pytest.raises(RuntimeError, match="closed"):
        wakeup.wake(ringer.answer)
    del ringer
    assert gone() is None


class BlindLoop(asyncio.SelectorEventLoop):
    """A loop that watches no files, as the proactor loop of Windows."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        self.asked_for = fd
        raise NotImplementedError


def test_a_loop_that_watches_no_files_has_no_bell() -> None:
    loop = BlindLoop()
    assert EventfdWakeup.create_if_supported(loop) is None
    assert not is_open(loop.asked_for)
    loop.close()


def test_other_systems_have_no_bell(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert EventfdWakeup.create_if_supported(loop) is None


def test_a_python_without_eventfd_has_no_bell(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux too: not every Python has it, and not every C library that one is built with."""
    monkeypatch.delattr(os, "eventfd")
    assert EventfdWakeup.create_if_supported(loop) is None
