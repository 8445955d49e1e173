"""thread_event.py: where one thread sleeps until another wakes it."""

import threading

import pytest

from tests.support.interleaving import TINY_SECONDS, Blocking, ended
from wsgi_asgi_bridge._crossing.thread_event import ThreadEvent


def test_open_before_wait_is_not_lost() -> None:
    gate = ThreadEvent()
    gate.set()
    assert ended(gate.wait) is True


def test_open_wakes_the_thread_that_waits() -> None:
    gate = ThreadEvent()
    about_to_wait = threading.Event()

    def sleep() -> bool:
        about_to_wait.set()
        return gate.wait()

    sleeper = Blocking(sleep)
    assert about_to_wait.wait(5)
    assert not sleeper.done()
    gate.set()
    assert sleeper.result() is True


def test_a_wait_that_nobody_ends_says_so() -> None:
    assert ThreadEvent().wait(TINY_SECONDS) is False


def test_a_gate_that_timed_out_can_still_be_opened() -> None:
    """The law of thread_event.py: a sleeper that finds its event taken waits for it again."""
    gate = ThreadEvent()
    assert not gate.wait(TINY_SECONDS)
    gate.set()
    assert ended(gate.wait) is True


def test_each_opening_lets_one_wait_through() -> None:
    gate = ThreadEvent()
    for _ in range(3):
        gate.set()
        assert ended(gate.wait) is True
        assert gate.wait(TINY_SECONDS) is False


def test_a_second_opening_without_a_wait_breaks_the_law_loudly() -> None:
    gate = ThreadEvent()
    gate.set()
    with pytest.raises(RuntimeError):
        gate.set()
