"""calling_thread_job.py: a task waits for one call in the thread that waits for it."""

import threading
from typing import Any

import pytest

from tests.support.interleaving import Blocking, HandTask, HandTurnedLoop, lying, must_happen
from wsgi_asgi_bridge._crossing.calling_thread import CallingThread
from wsgi_asgi_bridge._crossing.calling_thread_job import run_in_calling_thread


@pytest.fixture
def caller(loop: HandTurnedLoop) -> CallingThread:
    return CallingThread(loop, 10)  # type: ignore[arg-type]


class Work:
    """Notes the threads that call it, and raises `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.threads: list[int] = []
        self.called = threading.Event()

    def __call__(self) -> None:
        self.threads.append(threading.get_ident())
        self.called.set()
        if self.error is not None:
            raise self.error


def waiting(caller: CallingThread) -> Blocking[Any]:
    return Blocking(lambda: caller.take_from_thread(None, None))


def test_the_call_runs_in_the_thread_and_then_the_task_goes_on(
    loop: HandTurnedLoop, caller: CallingThread
) -> None:
    """A-OUT-6"""
    work = Work()
    thread = waiting(caller)
    with HandTask(run_in_calling_thread(caller, work)) as task:
        assert not task.step()
        must_happen(work.called)
        caller.put_in_loop(b"", last=True)
        thread.result()
        assert work.threads == [thread.thread.ident]
        loop.turn()
        assert task.step()
        assert task.result() is True


def test_what_it_raises_is_raised_in_the_task_alone(
    loop: HandTurnedLoop, caller: CallingThread
) -> None:
    """A-OUT-6: the thread goes on to wait."""
    work = Work(ValueError("no"))
    thread = waiting(caller)
    with HandTask(run_in_calling_thread(caller, work)) as task:
        task.step()
        must_happen(work.called)
        caller.put_in_loop(b"", last=True)
        assert thread.result() == ([], True)
        loop.turn()
        task.step()
        with pytest.raises(ValueError, match="no"):
            task.result()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_thread_is_raised_in_both(
    loop: HandTurnedLoop, caller: CallingThread, error: type[BaseException]
) -> None:
    """A-OUT-4: Ctrl-C, or a server that ends its worker."""
    heard: list[type[BaseException]] = []

    async def app() -> None:
        try:
            await run_in_calling_thread(caller, Work(error()))
        except BaseException as raised:
            heard.append(type(raised))

    with HandTask(app()) as task:
        task.step()
        with pytest.raises(error):
            caller.take_from_thread(None, None)
        loop.turn()
        assert task.step()
    assert heard == [error]


def test_after_the_thread_has_left_nothing_is_called(caller: CallingThread) -> None:
    """A-OUT-3, A-OUT-6"""
    caller.finish_from_thread()
    work = Work()
    with HandTask(run_in_calling_thread(caller, work)) as task:
        assert task.step()
        assert task.result() is False
    assert work.threads == []


def test_a_thread_that_leaves_with_the_job_unrun(
    loop: HandTurnedLoop, caller: CallingThread
) -> None:
    """A-OUT-3, A-OUT-6: whoever runs its jobs instead does not call the server."""
    work = Work()
    with HandTask(run_in_calling_thread(caller, work)) as task:
        assert not task.step()
        (job,) = caller.finish_from_thread()
        Blocking(job).result()
        loop.turn()
        assert task.step()
        assert task.result() is False
    assert work.threads == []


def test_a_thread_that_leaves_as_the_job_is_given(
    loop: HandTurnedLoop, caller: CallingThread
) -> None:
    """A-OUT-3, A-OUT-6: between the end of the task's own look and the lock."""
    work = Work()
    lying(caller).before("call_in_thread", caller.finish_from_thread)
    with HandTask(run_in_calling_thread(caller, work)) as task:
        assert task.step()
        assert task.result() is False
    assert work.threads == []


def test_an_exchange_that_ends_as_the_thread_takes_the_job(
    loop: HandTurnedLoop, caller: CallingThread
) -> None:
    """A-OUT-5, A-OUT-6: the bridge is closed just before the call: the server is not called."""
    work = Work()
    lying(caller).after("take_from_thread", lambda: caller.fail_in_loop(ConnectionError("closed")))
    with HandTask(run_in_calling_thread(caller, work)) as task:
        task.step()
        with pytest.raises(ConnectionError):
            Blocking(lambda: caller.take_from_thread(None, None)).result()
        loop.turn()
        assert task.step()
        assert task.result() is False
    assert work.threads == []
