"""calling_thread.py: a thread that leaves its exchange to the loop, and what is put meanwhile."""

from typing import Any

import pytest

from tests.support.interleaving import Blocking, HandTask, HandTurnedLoop, ended, lying
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread, Leftover

BUDGET = 1000


class CustomError(Exception):
    pass


@pytest.fixture
def caller(loop: HandTurnedLoop) -> CallingThread:
    return CallingThread(loop, BUDGET)  # type: ignore[arg-type]


def taken(caller: CallingThread) -> Any:
    return ended(lambda: caller.take_from_thread(None, None))


def test_a_waiting_thread_gets_the_offer(caller: CallingThread) -> None:
    waiting = Blocking(lambda: caller.take_from_thread(None, None))
    caller.offer_leave_in_loop()
    assert waiting.result() == ([], False)
    assert not caller.finished()


@pytest.mark.parametrize("then", ["a chunk", "the end", "an error", "a job"])
def test_the_offer_comes_before_all_else(caller: CallingThread, then: str) -> None:
    """A-OUT-7: what has come meanwhile makes no difference."""
    caller.offer_leave_in_loop()
    error = CustomError()
    if then == "a job":
        caller.call_in_thread(int)
    elif then == "an error":
        caller.fail_in_loop(error)
    else:
        caller.put_in_loop(b"chunk", last=then == "the end")
    assert taken(caller) == ([], False)
    chunks = [b"chunk"] if then in ("a chunk", "the end") else []
    assert caller.leave_from_thread() == Leftover(
        chunks,
        then in ("the end", "an error"),
        error if then == "an error" else None,
        [int] if then == "a job" else [],
    )
    assert caller.left_early


def test_a_thread_that_stays_takes_what_came_behind_the_offer(caller: CallingThread) -> None:
    caller.offer_leave_in_loop()
    caller.put_in_loop(b"chunk", last=False)
    assert taken(caller) == ([], False)
    assert taken(caller) == ([b"chunk"], False)
    assert not caller.left_early


def test_a_job_that_runs_delays_the_offer(caller: CallingThread) -> None:
    """The loop does not wait for it."""
    runs: list[str] = []

    def job() -> None:
        caller.offer_leave_in_loop()
        caller.put_in_loop(b"chunk", last=False)
        runs.append("job")

    caller.call_in_thread(job)
    assert taken(caller) == ([], False)
    assert runs == ["job"]


def test_after_the_thread_has_left_everything_is_the_loops(caller: CallingThread) -> None:
    assert caller.leave_from_thread() == Leftover([], False, None, [])
    assert caller.finished()
    assert caller.put_in_loop(b"late", last=False) is None
    assert not caller.call_in_thread(int)
    assert not caller.follow_with_error_in_loop(CustomError())
    caller.fail_in_loop(CustomError())
    caller.offer_leave_in_loop()
    assert caller.finish_from_thread() == []


def test_only_one_thread_leaves(caller: CallingThread) -> None:
    """A server may close in one thread what it iterates in another."""
    caller.finish_from_thread()
    assert caller.leave_from_thread() is None
    assert not caller.left_early


def test_a_put_just_before_the_leave_is_taken_along(caller: CallingThread) -> None:
    lock = lying(caller)
    lock.before("leave_from_thread", lambda: caller.put_in_loop(b"chunk", last=False))
    left = caller.leave_from_thread()
    assert lock.told
    assert left is not None
    assert left.chunks == [b"chunk"]


def test_a_put_just_after_the_leave_is_refused(caller: CallingThread) -> None:
    """The loop, which gets None, keeps the chunk behind those that were taken along."""
    left: list[Leftover | None] = []
    lock = lying(caller)
    lock.before("put_in_loop", lambda: left.append(caller.leave_from_thread()))
    assert caller.put_in_loop(b"chunk", last=False) is None
    assert lock.told
    assert left == [Leftover([], False, None, [])]
    assert caller.left_early


def test_an_error_just_before_the_leave_is_taken_along(caller: CallingThread) -> None:
    error = CustomError()
    lock = lying(caller)
    lock.before("leave_from_thread", lambda: caller.fail_in_loop(error))
    left = caller.leave_from_thread()
    assert left is not None
    assert (left.error, left.ended) == (error, True)


def test_a_job_just_before_the_leave_is_taken_along(caller: CallingThread) -> None:
    lock = lying(caller)
    lock.before("leave_from_thread", lambda: caller.call_in_thread(int))
    left = caller.leave_from_thread()
    assert left is not None
    assert left.jobs == [int]


def test_who_waits_for_room_is_woken(caller: CallingThread, loop: HandTurnedLoop) -> None:
    assert caller.put_in_loop(bytes(BUDGET + 1), last=False)
    with HandTask(caller.wait_for_room_in_loop()) as waiting:
        assert not waiting.step()
        caller.leave_from_thread()
        loop.turn()
        while not waiting.step():
            pass
        assert waiting.result() is None
