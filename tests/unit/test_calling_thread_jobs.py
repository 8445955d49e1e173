"""calling_thread.py: the jobs that the waiting thread runs, and work of another thread."""

import threading
import weakref

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


class FailedError(Exception):
    """Why the exchange ended without its end."""


class BoredError(Exception):
    """What a check_alive raises to stop waiting."""


@pytest.fixture
def caller(loop: HandTurnedLoop) -> CallingThread:
    return CallingThread(loop, BUDGET)  # type: ignore[arg-type]


def take(caller: CallingThread) -> tuple[list[bytes], bool]:
    """What the thread takes; a thread that sleeps for ever is a failure."""
    return ended(lambda: caller.take_from_thread(None, None))


def bored() -> None:
    raise BoredError


# --- jobs


def test_another_thread_that_leaves_takes_the_jobs_along(caller: CallingThread) -> None:
    """A-CALL-3: closed in one thread, iterated in another, which then has nothing left to run."""
    caller.put_in_loop(b"x", last=False)
    caller.call_in_thread(bored)
    assert take(caller) == ([b"x"], False)
    assert caller.finish_from_thread() == [bored]
    assert take(caller) == ([], False)


def test_a_job_runs_in_the_thread_that_waits(caller: CallingThread) -> None:
    """A-LOOP-4."""
    ran_in: list[threading.Thread] = []

    def job() -> None:
        ran_in.append(threading.current_thread())
        caller.put_in_loop(b"done", last=True)

    assert caller.call_in_thread(job) is True
    taking = Blocking(lambda: caller.take_from_thread(None, None))
    assert taking.result() == ([b"done"], True)
    assert ran_in == [taking.thread]


def test_jobs_run_in_order_and_a_job_wakes_the_thread(caller: CallingThread) -> None:
    ran: list[str] = []
    lock = lying(caller)

    def last() -> None:
        ran.append("second")
        caller.put_in_loop(b"", last=True)

    def post_both() -> None:
        caller.call_in_thread(lambda: ran.append("first"))
        caller.call_in_thread(last)

    lock.after("take_from_thread", post_both)
    assert take(caller) == ([], True)
    assert ran == ["first", "second"]


def test_chunks_go_before_the_jobs_that_follow_them(caller: CallingThread) -> None:
    """A-OUT-2: no block waits for sync code of the app."""
    ran: list[str] = []
    caller.put_in_loop(b"x", last=False)
    caller.call_in_thread(lambda: ran.append("job"))
    assert take(caller) == ([b"x"], False)
    assert ran == []


def test_job_lets_one_taking_of_chunks_go_before_it_and_no_more(caller: CallingThread) -> None:
    """A-LOOP-4: an app that streams without a pause must not keep its own sync code waiting."""
    ran: list[str] = []
    caller.put_in_loop(b"one", last=False)
    for job in ("first", "second"):
        caller.call_in_thread(lambda job=job: ran.append(job))
    assert take(caller) == ([b"one"], False)
    assert ran == []
    caller.put_in_loop(b"two", last=False)
    caller.call_in_thread(lambda: ran.append("third"))
    assert take(caller) == ([b"two"], False)
    assert ran == ["first", "second"]
    caller.put_in_loop(b"three", last=False)
    assert take(caller) == ([b"three"], False)
    assert ran == ["first", "second", "third"]
    assert caller.finish_from_thread() == []


def test_jobs_that_waited_run_before_the_end_is_taken(caller: CallingThread) -> None:
    """A-LOOP-4: accepted, they run, though the exchange has ended since."""
    ran: list[str] = []
    caller.put_in_loop(b"x", last=False)
    caller.call_in_thread(lambda: ran.append("job"))
    take(caller)
    caller.put_in_loop(b"", last=True)
    assert take(caller) == ([], True)
    assert ran == ["job"]


def test_no_job_runs_while_the_end_is_held_back(caller: CallingThread) -> None:
    """A-OUT-5, A-OUT-8: neither one that waited nor one that comes; both are given back."""
    ran: list[str] = []
    caller.put_in_loop(b"x", last=False)
    caller.call_in_thread(lambda: ran.append("waited"))
    assert take(caller) == ([b"x"], False)
    assert caller.hold_end_in_loop()
    caller.call_in_thread(lambda: ran.append("came"))
    with pytest.raises(BoredError):
        ended(lambda: caller.take_from_thread(TINY_SECONDS, bored))
    caller.put_in_loop(b"", last=True)
    assert take(caller) == ([], True)
    assert ran == []
    assert len(caller.finish_from_thread()) == 2


def test_nobody_holds_back_the_end_of_what_is_over(caller: CallingThread) -> None:
    """W-STAT-1: of what has failed no end comes any more, nor of what the thread has left."""
    caller.fail_in_loop(FailedError())
    assert not caller.hold_end_in_loop()
    with pytest.raises(FailedError):
        take(caller)
    caller.finish_from_thread()
    assert not caller.hold_end_in_loop()


def test_a_job_is_freed_before_the_thread_sleeps(caller: CallingThread) -> None:
    """What a job refers to, a request's body for one, is not kept while the thread waits."""

    class Job:
        def __call__(self) -> None:
            pass

    freed = threading.Event()

    def post_and_take() -> None:
        # Made in the thread that drops it last: without a GIL an object waits for its maker.
        job = Job()
        weakref.finalize(job, freed.set)
        caller.call_in_thread(job)
        del job
        caller.take_from_thread(None, None)

    waiting = Blocking(post_and_take)
    must_happen(freed)  # while nothing has ended the wait
    caller.put_in_loop(b"", last=True)
    waiting.result()


def test_a_job_that_comes_after_the_thread_has_left_is_refused(caller: CallingThread) -> None:
    """A-LOOP-4: whoever made it runs it elsewhere; it must never be lost."""
    caller.finish_from_thread()
    assert caller.call_in_thread(lambda: None) is False


@pytest.mark.parametrize("ending", ["last", "failed"])
def test_job_that_comes_between_end_and_leaving_is_given_back(
    caller: CallingThread, ending: str
) -> None:
    """A-LOOP-4: one that ran elsewhere already now could run beside one that still runs here."""
    if ending == "last":
        caller.put_in_loop(b"", last=True)
    else:
        caller.fail_in_loop(FailedError())

    def job() -> None:
        """Somebody else's to run."""

    assert caller.call_in_thread(job) is True
    assert caller.finish_from_thread() == [job]


def test_thread_that_leaves_gives_back_jobs_that_it_has_not_run(
    caller: CallingThread,
) -> None:
    """A-LOOP-4: accepted once, they are run by somebody else."""

    def first() -> None: ...

    def second() -> None: ...

    caller.call_in_thread(first)
    caller.call_in_thread(second)
    assert caller.finish_from_thread() == [first, second]
    assert caller.finish_from_thread() == []


# --- work of another thread


def matters() -> bool:
    return True


def test_without_work_nothing_is_waited_for(caller: CallingThread) -> None:
    assert not caller.has_unfinished_work()
    ended(lambda: caller.wait_for_work_from_thread(WAIT_SECONDS, lambda: None))


def test_the_thread_waits_for_all_the_work_that_was_begun(caller: CallingThread) -> None:
    first, second = caller.begin_work(matters), caller.begin_work(matters)
    assert caller.has_unfinished_work()
    first.set()
    looked = threading.Event()
    waiting = Blocking(lambda: caller.wait_for_work_from_thread(TINY_SECONDS, looked.set))
    must_happen(looked)
    assert not waiting.done()
    second.set()
    waiting.result()
    assert not caller.has_unfinished_work()


def test_a_glance_ends_the_wait_for_work(caller: CallingThread) -> None:
    def check_alive() -> None:
        raise BoredError

    caller.begin_work(matters)
    with pytest.raises(BoredError):
        ended(lambda: caller.wait_for_work_from_thread(TINY_SECONDS, check_alive))


def test_nobody_waits_for_work_that_is_given_up(caller: CallingThread) -> None:
    given_up, looked = threading.Event(), threading.Event()
    caller.begin_work(lambda: not given_up.is_set())
    waiting = Blocking(lambda: caller.wait_for_work_from_thread(TINY_SECONDS, looked.set))
    must_happen(looked)
    assert not waiting.done()
    given_up.set()
    waiting.result()
