"""calling_thread.py: a thread that stays after the end and runs jobs until the app is over."""

import threading
import time

import pytest

from tests.support.interleaving import (
    TINY_SECONDS,
    WAIT_SECONDS,
    Blocking,
    HandTurnedLoop,
    ended,
    lying,
    must_happen,
)
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread

BUDGET = 10


@pytest.fixture
def caller() -> CallingThread:
    """Its thread has taken the end."""
    caller = CallingThread(HandTurnedLoop(), BUDGET, True)  # type: ignore[arg-type]
    caller.put_in_loop(b"all", last=True)
    assert ended(lambda: caller.take_from_thread(None, None)) == ([b"all"], True)
    return caller


def running_jobs(caller: CallingThread) -> Blocking[None]:
    return Blocking(lambda: caller.run_jobs_from_thread(2 * WAIT_SECONDS))


def test_jobs_run_until_the_app_is_over(caller: CallingThread) -> None:
    """A-OUT-9: those that waited, and those that come."""
    threads: list[threading.Thread] = []
    ran = threading.Event()
    assert not caller.finished()
    assert caller.call_in_thread(lambda: threads.append(threading.current_thread()))
    running = running_jobs(caller)

    def second() -> None:
        threads.append(threading.current_thread())
        ran.set()

    assert caller.call_in_thread(second)
    must_happen(ran)
    assert not running.done()
    caller.release_in_loop()
    running.result()
    assert threads == [running.thread] * 2


def test_jobs_that_wait_run_although_the_app_is_over(caller: CallingThread) -> None:
    ran: list[str] = []
    assert caller.call_in_thread(lambda: ran.append("job"))
    caller.release_in_loop()
    ended(lambda: caller.run_jobs_from_thread(WAIT_SECONDS))
    assert ran == ["job"]


@pytest.mark.parametrize("news", ["a job", "the app's end"])
def test_news_as_the_thread_goes_to_sleep_are_noticed(caller: CallingThread, news: str) -> None:
    """Between its look and its sleep."""
    lock = lying(caller)
    ran: list[str] = []
    if news == "a job":

        def come() -> None:
            caller.call_in_thread(lambda: (ran.append("job"), caller.release_in_loop()))
    else:
        come = caller.release_in_loop
    lock.after("run_jobs_from_thread", come)
    running_jobs(caller).result()
    assert lock.told
    assert ran == (["job"] if news == "a job" else [])


@pytest.mark.parametrize("news", ["a job", "the app's end"])
def test_news_that_meet_the_time_out_open_no_gate_twice(caller: CallingThread, news: str) -> None:
    """The thread finds that it is being woken, and goes on."""
    lock = lying(caller)
    ran: list[str] = []
    come = caller.release_in_loop
    if news == "a job":

        def come() -> None:
            caller.call_in_thread(lambda: ran.append("job"))

    lock.before("_retract", come)
    ended(lambda: caller.run_jobs_from_thread(TINY_SECONDS))
    assert lock.told
    assert ran == (["job"] if news == "a job" else [])


def test_the_wait_has_an_end(caller: CallingThread) -> None:
    """A-OUT-9: for all jobs together; who leaves then gives back what comes later."""
    begun = time.monotonic()
    ended(lambda: caller.run_jobs_from_thread(TINY_SECONDS))
    assert time.monotonic() >= begun + TINY_SECONDS
    job = must_happen
    assert caller.call_in_thread(job)  # type: ignore[arg-type]
    assert caller.finish_from_thread() == [job]
    caller.release_in_loop()
    assert not caller.call_in_thread(job)  # type: ignore[arg-type]


def test_a_thread_that_another_one_leaves_for_waits_no_longer(caller: CallingThread) -> None:
    parked = threading.Event()
    lock = lying(caller)
    lock.after("run_jobs_from_thread", parked.set)
    running = running_jobs(caller)
    must_happen(parked)
    caller.finish_from_thread()
    running.result()


def test_what_a_job_raises_comes_out(caller: CallingThread) -> None:
    """Ctrl-C in the main thread."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert caller.call_in_thread(interrupted)
    with pytest.raises(KeyboardInterrupt):
        ended(lambda: caller.run_jobs_from_thread(WAIT_SECONDS))


def test_where_app_is_over_first_the_thread_leaves_with_the_end() -> None:
    caller = CallingThread(HandTurnedLoop(), BUDGET, True)  # type: ignore[arg-type]
    caller.put_in_loop(b"all", last=True)
    caller.release_in_loop()
    assert ended(lambda: caller.take_from_thread(None, None)) == ([b"all"], True)
    assert caller.finished()
    ended(lambda: caller.run_jobs_from_thread(WAIT_SECONDS))
